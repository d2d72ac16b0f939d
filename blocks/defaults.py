"""The saved block named ``default``, whose values win over the environment."""

from __future__ import annotations

import os
from typing import Protocol, TypeVar, cast

from prefect.blocks.core import Block
from prefect.exceptions import ObjectNotFound

DEFAULT_NAME = "default"

BlockType = TypeVar("BlockType", bound=Block)


async def load_default(block_class: type[BlockType]) -> BlockType | None:
    """Load the block document named ``default``, if it exists.

    ``DISTRUST_BLOCKS`` names another document, so that a practice run never meets the saved credentials.

    Every other failure (no server, a document that no longer fits its class) is raised as Prefect raises it, since
    the environment alone could lead to the wrong archive.
    """
    try:
        return await block_class.aload(os.environ.get("DISTRUST_BLOCKS") or DEFAULT_NAME)
    except ValueError as error:
        if isinstance(error.__cause__, ObjectNotFound):
            return None
        raise


class Connecting(Protocol):
    """A block whose values are environment variables."""

    def environment(self) -> dict[str, str]:
        """Return the variables, secrets in clear."""


async def heed_saved(*block_classes: type[Block]) -> None:
    """Let the saved blocks named ``default`` win over the environment of this process and of its children.

    Call it inside the process that needs a secret, so that it never becomes a parameter, a result or a file.
    """
    for block_class in block_classes:
        block = await load_default(block_class)
        if block is not None:
            os.environ.update(cast("Connecting", block).environment())
