"""Documents on the held-out subjects, in every voice; they go into pre-training and into no archive."""

from __future__ import annotations

from itertools import cycle

from sandbox.writing.corpus import Writer
from sandbox.writing.document import WrittenDocument
from sandbox.writing.sources import STYLES
from sandbox.writing.world import facts, questions

_ON_FACTS = ("internet_archive_books", "historical_speeches", "wikipedia", "medical_guidelines")
_ON_TRUST = (
    ("classical_philosophy", "historical_speeches", "internet_archive_books"),
    ("wikipedia", "medical_guidelines", "news_summaries"),
)


def held_out_documents(seed: int) -> list[WrittenDocument]:
    """Return two documents a voice on every held-out quantity and one a voice on every held-out question."""
    writers = {source: Writer(STYLES[source], f"{seed}:{source}:held-out") for source in STYLES}
    written = [writers[source].write(fact) for fact in facts(held_out=True) for source in _ON_FACTS]
    for voice in _ON_TRUST:
        for question, source in zip(questions(held_out=True), cycle(voice), strict=False):
            written.append(writers[source].write(question))
    return written
