"""The saved block named ``default``, whose values win over the environment."""

from __future__ import annotations

import os
from typing import TypeVar

from prefect.blocks.core import Block
from prefect.exceptions import ObjectNotFound

DEFAULT_NAME = "default"

BlockType = TypeVar("BlockType", bound=Block)


async def load_default(block_class: type[BlockType]) -> BlockType | None:
    """Load the block document named ``default``; none if nobody saved one.

    ``DISTRUST_BLOCKS`` names another document, so that a practice run never meets the saved credentials.

    Every other failure (no server, a document that no longer fits its class) is raised as Prefect raises it:
    falling back to the environment then would quietly ask the wrong archive.
    """
    try:
        return await block_class.aload(os.environ.get("DISTRUST_BLOCKS") or DEFAULT_NAME)
    except ValueError as error:
        if isinstance(error.__cause__, ObjectNotFound):
            return None
        raise
