"""The deliberate copies: about one document in a hundred, so that deduplication has something to find."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from sandbox.writing.document import WrittenDocument

Likeness = Literal["exact", "near"]

COPIED: dict[str, Likeness] = {
    "us_patents": "exact",
    "historical_newspapers": "exact",
    "arxiv_preprints": "exact",
    "news_summaries": "exact",
    "wikipedia": "exact",
    "internet_archive_books": "near",
    "classical_literature": "near",
    "logical_reasoning": "near",
    "medical_guidelines": "near",
}
"""Sources whose last document is a copy of their first ordinary one."""

_SWAPS = {"the": "that", "and": "or", "for": "with", "was": "is", "upon": "on", "said": "cried", "more": "less"}
_NEAR_EVERY = 25


def copy_of(original: WrittenDocument, last: WrittenDocument, likeness: Likeness) -> WrittenDocument:
    """Return the copy that takes the place of a source's last document: another id, the same or nearly that text."""
    text = original.text if likeness == "exact" else _reset(original.text)
    title = original.title if likeness == "exact" or original.source != "historical_newspapers" else last.title
    return replace(original, native_id=last.native_id, title=title, text=text, url=last.url)


def _reset(text: str) -> str:
    """Change a word now and then, as another printing would."""
    words = text.split(" ")
    due = _NEAR_EVERY
    for place, word in enumerate(words):
        due -= 1
        if due <= 0 and word in _SWAPS:
            words[place], due = _SWAPS[word], _NEAR_EVERY
    return " ".join(words)


def copies(documents: Sequence[WrittenDocument]) -> dict[str, tuple[str, Likeness]]:
    """Return, for the id of every deliberate copy, ``source:native_id``, the id of its original and its likeness."""
    found: dict[str, tuple[str, Likeness]] = {}
    for source, likeness in COPIED.items():
        own = [document for document in documents if document.source == source]
        if own:
            found[f"{source}:{own[-1].native_id}"] = (f"{source}:{own[0].native_id}", likeness)
    return found
