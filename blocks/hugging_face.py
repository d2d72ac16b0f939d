"""The Hugging Face hub: datasets and base models."""

from __future__ import annotations

from pydantic import Field, HttpUrl, SecretStr

from blocks.defaults import Address, SettingsBlock


class HuggingFaceHub(SettingsBlock):
    """Connection to the hub that serves datasets and base models."""

    _block_type_name = "Hugging Face Hub"
    _block_type_slug = "hugging-face-hub"
    _description = "Connection to the Hugging Face hub: address and access token for gated models and datasets."
    _documentation_url = HttpUrl("https://huggingface.co/docs/hub/security-tokens")
    _variables = (("endpoint", "HF_ENDPOINT"), ("token", "HF_TOKEN"))

    endpoint: Address = Field(
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
