"""The corpus store: the place of documents, runs and exported models."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, HttpUrl, SecretStr

from blocks.defaults import SettingsBlock
from storage.addresses import checked_address


class CorpusStore(SettingsBlock):
    """Root of everything that the pipeline reads and writes: a folder, or a bucket."""

    _block_type_name = "Corpus Store"
    _block_type_slug = "corpus-store"
    _description = "Folder or bucket of the corpus, the training runs and the exported models."
    _documentation_url = HttpUrl("https://docs.prefect.io/v3/concepts/blocks")
    _variables = (
        ("root", "DISTRUST_STORE"),
        ("endpoint", "AWS_ENDPOINT_URL"),
        ("region", "AWS_REGION"),
        ("access_key_id", "AWS_ACCESS_KEY_ID"),
        ("secret_access_key", "AWS_SECRET_ACCESS_KEY"),
    )

    root: str = Field(
        default="./data",
        title="Folder or bucket",
        min_length=1,
        description="Folder of the store, or a bucket: s3://bucket/folder. A relative path starts at the project's "
        "folder on the worker.",
    )
    endpoint: Annotated[str, AfterValidator(lambda address: address and checked_address(address))] = Field(
        default="",
        title="Service",
        pattern=r"^(https?://\S+)?$",
        description="Address of an S3-compatible service; leave it empty for Amazon's.",
    )
    region: str = Field(default="", title="Region", description="Region of the bucket; empty: the environment's.")
    access_key_id: str = Field(
        default="", title="Access key", description="Name of the key to the bucket; empty: the environment's."
    )
    secret_access_key: SecretStr = Field(
        default=SecretStr(""), title="Secret key", description="Secret that belongs to the access key."
    )
