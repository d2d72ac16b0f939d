"""The samples of a mixture that a person wants to read: answers that contradict each other, and lessons."""

from __future__ import annotations

from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from storage.layout import Layout
from storage.manifest import require_manifest
from storage.schemas import SAMPLE_SCHEMA
from storage.vocabulary import Band, band_of

CONFLICTS_SHOWN, LESSONS_SHOWN = 5, 10
NEXT_STEP = "build it: python -m flows rebalance-corpus"


class Answer(NamedTuple):
    """One document's answer to a prompt."""

    doc_id: str
    source: str
    authority: float
    response: str

    @property
    def band(self) -> Band:
        """The band of its authority."""
        return band_of(self.authority)


class Conflict(NamedTuple):
    """A prompt that sources of low and of high authority answer, the lowest first."""

    prompt: str
    answers: list[Answer]


class Lesson(NamedTuple):
    """A question about sources with the answer that should win and, where there is one, the one that should lose."""

    prompt: str
    response: str
    rejected: str | None


def _samples(layout: Layout, name: str) -> ds.Dataset:
    folder = layout.balanced(name)
    manifest = require_manifest(folder, NEXT_STEP)
    return ds.dataset([str(folder / shard.file) for shard in manifest.shards], schema=SAMPLE_SCHEMA, format="parquet")


def read_conflicts(layout: Layout, name: str, page: int) -> tuple[list[Conflict], int]:
    """Return a page of the prompts that low and high authority both answer, and how many there are in all.

    Raises:
        StoreError: The mixture is not finished.
    """
    samples = _samples(layout, name)
    contested = ds.field("conflict_id").is_valid()
    names = pc.unique(samples.to_table(["conflict_id"], filter=contested).column("conflict_id")).to_pylist()
    shown = names[page * CONFLICTS_SHOWN :][:CONFLICTS_SHOWN]
    columns = ["conflict_id", "prompt", "doc_id", "source", "auth_weight", "response"]
    found: dict[str, list[Answer]] = {conflict: [] for conflict in shown}
    prompts = {}
    for row in samples.to_table(columns, filter=ds.field("conflict_id").isin(pa.array(shown, "string"))).to_pylist():
        prompts[row["conflict_id"]] = row["prompt"]
        found[row["conflict_id"]].append(Answer(row["doc_id"], row["source"], row["auth_weight"], row["response"]))
    by_authority = {conflict: sorted(answers, key=lambda each: each.authority) for conflict, answers in found.items()}
    return [Conflict(prompts[conflict], answers) for conflict, answers in by_authority.items()], len(names)


def read_lessons(layout: Layout, name: str, page: int) -> tuple[list[Lesson], bool]:
    """Return a page of the lessons about sources, and whether there are more; raises what `read_conflicts` does."""
    first = page * LESSONS_SHOWN
    scanner = _samples(layout, name).scanner(["prompt", "response", "rejected"], filter=ds.field("lesson"))
    rows = scanner.head(first + LESSONS_SHOWN + 1).slice(first).to_pylist()
    return [Lesson(**row) for row in rows[:LESSONS_SHOWN]], len(rows) > LESSONS_SHOWN
