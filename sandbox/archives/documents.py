"""The document that the sandbox archives serve, and which archive serves it."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from storage.errors import ParameterError

Archive = Literal["internet_archive", "chronicling_america", "hugging_face"]

ARCHIVE_OF: dict[str, Archive] = {
    "classical_philosophy": "internet_archive",
    "internet_archive_books": "internet_archive",
    "classical_literature": "internet_archive",
    "historical_speeches": "internet_archive",
    "historical_newspapers": "chronicling_america",
    "us_patents": "hugging_face",
    "arxiv_preprints": "hugging_face",
    "logical_reasoning": "hugging_face",
    "scientific_papers": "hugging_face",
    "news_summaries": "hugging_face",
    "medical_guidelines": "hugging_face",
    "wikipedia": "hugging_face",
    "big_patent": "hugging_face",
    "government_documents": "hugging_face",
}
"""Every source of the catalogue that the sandbox can serve, with the archive whose answers it imitates."""

MAX_TEXT_CHARACTERS = 8_000_000
"""Longer than any one book; a longer "document" is a mistake in the file."""

ShortText = Annotated[str, StringConstraints(max_length=4_000)]


class SandboxDocument(BaseModel):
    """One document to serve; the fields beyond `text` may be missing, as in the archives."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    native_id: Annotated[str, StringConstraints(min_length=1, max_length=400)]
    text: str = Field(max_length=MAX_TEXT_CHARACTERS)
    title: ShortText | None = None
    author: ShortText | None = None
    year: int | None = Field(default=None, ge=-9999, le=9999)
    """Year of publication; negative before the common era."""
    date: ShortText | None = None
    language: ShortText | None = None
    licence: ShortText | None = None
    part_of: ShortText | None = None
    """The parent work: pieces of one book share it."""
    url: ShortText | None = None
    lccn: Annotated[str, StringConstraints(pattern=r"^[a-z]{0,3}[0-9]{6,12}$")] | None = None
    """The newspaper's number at the Library of Congress; newspapers without one get one from their title."""

    @field_validator("source")
    @classmethod
    def _is_served(cls, source: str) -> str:
        if source not in ARCHIVE_OF:
            raise ValueError(f"source {source!r} is not served; known: {', '.join(sorted(ARCHIVE_OF))}")
        return source

    @field_validator("text")
    @classmethod
    def _is_not_blank(cls, text: str) -> str:
        if not text.strip():
            raise ValueError("text is blank")
        return text

    @model_validator(mode="after")
    def _newspaper_has_a_day(self) -> SandboxDocument:
        if ARCHIVE_OF[self.source] == "chronicling_america" and day_of(self) is None:
            raise ValueError("a newspaper page needs a date (YYYY-MM-DD) or a year from 1 to 9999")
        return self


def day_of(document: SandboxDocument) -> date | None:
    """Return the document's date; one with a year only gets a day of that year, the same for all of one parent."""
    try:
        return date.fromisoformat(document.date or "")
    except ValueError:
        year = document.year
    if year is None or year < 1:
        return None
    return date(year, 1, 1) + timedelta(days=stable_number(document.part_of or document.native_id, 365))


def names_phrase(text: str, phrase: str) -> bool:
    """Tell whether a text holds these words side by side, as a search for a phrase does."""
    words = r"\W+".join(map(re.escape, re.findall(r"\w+", phrase.casefold())))
    return bool(words) and re.search(rf"\b{words}\b", text.casefold()) is not None


def stable_number(text: str, below: int) -> int:
    """Return a number in ``[0, below)`` that depends on the text alone, on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) % below


@dataclass(frozen=True)
class SourceSummary:
    """What the documents of one source amount to.

    Attributes:
        documents: How many there are.
        digest: SHA-256 over all of them in order, lower-case hex.
        years: First and last year, if any document has one.
        days: First and last day, newspapers only.
    """

    documents: int
    digest: str
    years: tuple[int, int] | None = None
    days: tuple[date, date] | None = None

    @property
    def revision(self) -> str:
        """The 40-digit revision under which the sandbox hub serves these documents."""
        return hashlib.sha1(f"hub-rows-1:{self.digest}".encode(), usedforsecurity=False).hexdigest()


def summarise(documents: Iterable[SandboxDocument]) -> dict[str, SourceSummary]:
    """Sum up documents by source, in the order of the names; they are read once, and never held as a whole.

    Raises:
        ParameterError: If there are none.
    """
    hashes: defaultdict[str, hashlib._Hash] = defaultdict(hashlib.sha256)
    counts: Counter[str] = Counter()
    years: dict[str, tuple[int, int]] = {}
    days: dict[str, tuple[date, date]] = {}
    for document in documents:
        source, year = document.source, document.year
        hashes[source].update(document.model_dump_json().encode() + b"\n")
        counts[source] += 1
        if year is not None:
            low, high = years.get(source, (year, year))
            years[source] = min(low, year), max(high, year)
        if ARCHIVE_OF[source] == "chronicling_america" and (day := day_of(document)):
            first, last = days.get(source, (day, day))
            days[source] = min(first, day), max(last, day)
    if not counts:
        raise ParameterError("there are no documents to serve; give at least one, or a folder that contains some")
    return {
        source: SourceSummary(counts[source], hashes[source].hexdigest(), years.get(source), days.get(source))
        for source in sorted(counts)
    }
