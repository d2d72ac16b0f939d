"""What every archive looks like from outside: a plan of items, and documents or rejects for each item."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

from storage.errors import ArchiveBusy, CorruptAnswer, ItemUnavailable
from storage.shard_plan import Item
from tasks.sources.pace import Tally

ARCHIVE_BUSY, CORRUPT_ANSWER = "archive-busy", "corrupt-answer"
ASKED_FOR = "asked_for"
"""Under this key an item, and the `extra` of its document, names the subject for which its archive was asked."""
NOTHING: Mapping[str, Item] = MappingProxyType({})
PASSING = frozenset({ARCHIVE_BUSY, CORRUPT_ANSWER})
"""Reasons that may pass: items that were rejected for them are worth another try later."""
MENDABLE = PASSING | {"foreign-redirect"}
"""Reasons that may be gone when a person asks for another try: the host of a redirect may now be trusted."""


@dataclass(frozen=True)
class Document:
    """One document as an archive gave it; the columns of the raw schema less its hash and time."""

    id: str
    source: str
    source_type: str
    text: str = field(repr=False)
    url: str | None = None
    title: str | None = None
    author: str | None = None
    year: int | None = None
    date: str | None = None
    language: str | None = None
    licence: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def year_evidence(self) -> str:
        """Where the year comes from: no archive reads it in the text."""
        return "none" if self.year is None else "metadata"


@dataclass(frozen=True)
class Reject:
    """One item or row that did not become a document, and why."""

    id: str
    url: str | None
    reason: str
    detail: str = ""
    attempts: int = 1


class Source(Protocol):
    """An archive that is open for reading.

    Every method raises `SourceUnavailable` where the source as a whole cannot be read, `ArchiveBusy` where it does not
    answer now, `CorruptAnswer` where what it says contradicts itself, and `ParameterError` where its folder is missing.

    Attributes:
        remark: What a person should know of the last plan, such as a total that the listing does not reach.
    """

    remark: str

    async def count(self) -> int | None:
        """Ask how many items there are, at the cost of a request or two; none if the archive does not say."""
        ...

    async def plan(self, limit: int, known: Mapping[str, Item] = NOTHING) -> list[Item]:
        """List what must be read to get `limit` documents, in a stable order, with a reserve for rejects.

        Args:
            limit: How many documents are wanted.
            known: Items that an earlier plan holds, by native id; they are passed over.
        """
        ...

    def fetch(self, item: Item) -> AsyncIterator[Document | Reject]:
        """Read one item: its documents and rejects, in a stable order."""
        ...


def reserve(limit: int) -> int:
    """Return how many items to plan for `limit` documents: a quarter more, since some items fail."""
    return limit + limit // 4 + 10


def reject_of(error: ItemUnavailable | CorruptAnswer | ArchiveBusy, source: str, item: Item, tally: Tally) -> Reject:
    """Make the reject of an item from the error that it failed with."""
    match error:
        case ItemUnavailable():
            reason, detail = error.reason, error.detail
        case CorruptAnswer():
            reason, detail = CORRUPT_ANSWER, str(error)
        case ArchiveBusy():
            reason, detail = ARCHIVE_BUSY, str(error)
    return Reject(item_id(source, item), item.url, reason, detail, tally.attempts)


def item_id(source: str, item: Item) -> str:
    """Return the id of the one document, or reject, that an item becomes."""
    return f"{source}:{item.native_id}"
