"""What the archives with a search have in common: an item is one document, and a list of subjects is searched for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping

from storage.errors import ArchiveAway, ArchiveBusy, CorruptAnswer, ItemUnavailable, SourceUnavailable
from storage.shard_plan import Item
from tasks.sources.catalogue import SourceSpec
from tasks.sources.connection import Archives
from tasks.sources.pace import Tally
from tasks.sources.source import NOTHING, Document, Reject, reject_of, reserve
from tasks.sources.subjects import ask_in_turn


class SearchedArchive(ABC):
    """A source that finds its items by a search."""

    remark = ""

    def __init__(self, spec: SourceSpec, archives: Archives) -> None:
        self._spec, self._current_year = spec, archives.current_year

    async def plan(self, limit: int, known: Mapping[str, Item] = NOTHING) -> list[Item]:
        """Search once, or for each subject of the list, and pass over what is known."""
        self.remark, wanted = "", reserve(limit)
        try:
            if not self._spec.subjects:
                return await self._find("", wanted, known)
            items, self.remark = await ask_in_turn(
                self._spec.subjects, wanted, lambda subject, most: self._find(subject, most, known)
            )
            return items
        except ItemUnavailable as error:
            raise SourceUnavailable(f"source {self._spec.name!r}: the search cannot be used ({error})") from error

    async def fetch(self, item: Item) -> AsyncIterator[Document | Reject]:
        """Read one item; it becomes a reject if it fails, unless the archive is away, which concerns every item."""
        tally = Tally()
        try:
            outcome: Document | Reject = await self._document(item, tally)
        except ArchiveAway:
            raise
        except (ItemUnavailable, CorruptAnswer, ArchiveBusy) as error:
            outcome = reject_of(error, self._spec.name, item, tally)
        yield outcome

    @abstractmethod
    async def _find(self, subject: str, wanted: int, known: Mapping[str, Item]) -> list[Item]:
        """List new items, on one subject if it is named."""

    @abstractmethod
    async def _document(self, item: Item, tally: Tally) -> Document:
        """Read one item."""
