"""Settings that the Prefect server keeps: blocks whose fields become environment variables, and win over them."""

from __future__ import annotations

import os
from typing import Annotated, ClassVar, TypeVar

from prefect.blocks.core import Block
from prefect.exceptions import ObjectNotFound
from pydantic import AfterValidator, SecretStr

from storage.addresses import checked_address

DEFAULT_NAME = "default"

Address = Annotated[str, AfterValidator(checked_address)]
BlockType = TypeVar("BlockType", bound=Block)


class SettingsBlock(Block):
    """A block whose fields are environment variables."""

    _variables: ClassVar[tuple[tuple[str, str], ...]] = ()
    """Fields, each with the variable that it sets."""

    @classmethod
    def get_code_example(cls) -> str:
        """Show how the block is used, on its page of the UI."""
        load = f'settings = {cls.__name__}.load("BLOCK_NAME")\nvariables = settings.environment()'
        return f"from {cls.__module__} import {cls.__name__}\n\n{load}\n"

    def environment(self) -> dict[str, str]:
        """Return the variables that the fields set, secrets in clear; an empty field sets none.

        Call it inside the process that needs it: a secret must never become a parameter, a result or a log line.
        """
        given = {variable: getattr(self, field) for field, variable in self._variables}
        return {variable: _as_text(value) for variable, value in given.items() if value}


def _as_text(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return ",".join(value) if isinstance(value, list) else str(value)


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


async def heed_saved(*block_classes: type[SettingsBlock]) -> None:
    """Let the saved blocks named ``default`` win over the environment of this process and of its children.

    Call it inside the process that needs a secret, so that it never becomes a parameter, a result or a file.
    """
    for block_class in block_classes:
        if block := await load_default(block_class):
            os.environ.update(block.environment())
