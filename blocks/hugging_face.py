"""The Hugging Face hub: datasets and base models."""

from __future__ import annotations

from typing import Annotated

from prefect.blocks.core import Block
from pydantic import AfterValidator, Field, HttpUrl, SecretStr

from storage.addresses import checked_address


class HuggingFaceHub(Block):
    """Connection to the hub that serves datasets and base models."""

    _block_type_name = "Hugging Face Hub"
    _block_type_slug = "hugging-face-hub"
    _description = "Connection to the Hugging Face hub: address and access token for gated models and datasets."
    _documentation_url = HttpUrl("https://huggingface.co/docs/hub/security-tokens")
    _code_example = """\
from blocks.hugging_face import HuggingFaceHub

hub = HuggingFaceHub.load("BLOCK_NAME")
variables = hub.environment()
"""

    endpoint: Annotated[str, AfterValidator(checked_address)] = Field(
        default="https://huggingface.co",
        title="Address",
        pattern=r"^https?://\S+$",
        description="Address of the hub; change it for a mirror inside your network.",
    )
    token: SecretStr = Field(
        default=SecretStr(""),
        title="Access token",
        description="Token with read access (write access to upload exports); leave it empty for public data.",
    )

    def environment(self) -> dict[str, str]:
        """Return the environment variables that this connection sets, the token in clear.

        Call it inside the task that needs it and hand the result to a child process only: it must never
        become a parameter, a result or a log line.
        """
        variables = {"HF_ENDPOINT": self.endpoint, "HF_TOKEN": self.token.get_secret_value()}
        return {name: value for name, value in variables.items() if value}
