"""The corpus store: where documents, runs and exported models lie."""

from __future__ import annotations

from prefect.blocks.core import Block
from pydantic import Field


class CorpusStore(Block):
    """Root folder of everything that the pipeline reads and writes."""

    _block_type_name = "Corpus Store"
    _block_type_slug = "corpus-store"
    _description = "Root folder of the corpus, the training runs and the exported models."
    _code_example = """\
from blocks.corpus_store import CorpusStore

store = CorpusStore.load("BLOCK_NAME")
variables = store.environment()
"""

    root: str = Field(
        default="./data",
        title="Folder",
        min_length=1,
        description="Folder of the store; a relative one starts at the project's folder on the worker.",
    )

    def environment(self) -> dict[str, str]:
        """Return the environment variables that this store sets."""
        return {"DISTRUST_STORE": self.root}
