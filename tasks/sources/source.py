"""What every archive looks like from outside: a plan of items, and documents or rejects for each item."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from storage.addresses import checked_address
from storage.errors import ArchiveAway, ArchiveBusy, CorruptAnswer, ItemUnavailable, ParameterError
from storage.shard_plan import Item
from tasks.sources.catalogue import SourceSpec
from tasks.sources.patience import Tally
from tasks.sources.web import Web

ARCHIVE_ORG = "https://archive.org"
LOC = "https://www.loc.gov"
LOC_TEXT = "https://tile.loc.gov"
LOC_BULK = "https://chroniclingamerica.loc.gov"
ARCHIVE_BUSY, CORRUPT_ANSWER = "archive-busy", "corrupt-answer"
NOTHING: Mapping[str, Item] = MappingProxyType({})
PASSING = frozenset({ARCHIVE_BUSY, CORRUPT_ANSWER})
"""Reasons that may pass: items that were rejected for them are worth another try later."""
MENDABLE = PASSING | {"foreign-redirect"}
"""Reasons that may be gone when a person asks for another try: the host of a redirect may be trusted by now."""


@dataclass(frozen=True)
class Connection:
    """Where the archives are, and who is asking.

    Args:
        archive_org_url: Root of the Internet Archive.
        loc_url: Root of the Library of Congress' JSON API.
        loc_text_url: Root of the Library of Congress' text services.
        loc_bulk_url: Root of the Library of Congress' bulk files of recognised text.
        archive_org_per_second: Most requests a second to the Internet Archive; none: as the source and the flow say.
        loc_api_per_minute: Most searches a minute at the Library of Congress; likewise.
        loc_text_per_minute: Most page texts a minute there; likewise.
        contact: E-mail address or URL for the User-Agent; archives throttle anonymous clients sooner.
        hf_token: Token of the Hugging Face Hub, for gated datasets and higher limits.
        allowed_hosts: Hosts to which a download may be redirected, besides the archive's own.

    Raises:
        ParameterError: A root is neither https nor on this machine, or a pace is not above 0.
    """

    archive_org_url: str = ARCHIVE_ORG
    loc_url: str = LOC
    loc_text_url: str = LOC_TEXT
    loc_bulk_url: str = LOC_BULK
    contact: str = ""
    hf_token: str | None = field(default=None, repr=False)
    allowed_hosts: tuple[str, ...] = ()
    archive_org_per_second: float | None = None
    loc_api_per_minute: float | None = None
    loc_text_per_minute: float | None = None

    def __post_init__(self) -> None:
        for name in ("archive_org_url", "loc_url", "loc_text_url", "loc_bulk_url"):
            checked_address(getattr(self, name), name)
        for name in ("archive_org_per_second", "loc_api_per_minute", "loc_text_per_minute"):
            pace = getattr(self, name)
            if pace is not None and not 0 < pace <= 60_000:
                raise ParameterError(f"{name} {pace} lies outside (0, 60000]")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Connection:
        """Read the connection from the environment variables of the project; unset or empty ones keep the default."""
        values = os.environ if environment is None else environment
        return cls(
            archive_org_url=values.get("DISTRUST_ARCHIVE_ORG_URL") or ARCHIVE_ORG,
            loc_url=values.get("DISTRUST_LOC_URL") or LOC,
            loc_text_url=values.get("DISTRUST_LOC_TEXT_URL") or LOC_TEXT,
            # Whoever leads the search elsewhere does not want the public files.
            loc_bulk_url=values.get("DISTRUST_LOC_BULK_URL") or values.get("DISTRUST_LOC_URL") or LOC_BULK,
            contact=values.get("DISTRUST_CONTACT") or "",
            hf_token=values.get("HF_TOKEN") or None,
            allowed_hosts=tuple(filter(None, map(str.strip, values.get("DISTRUST_ALLOWED_HOSTS", "").split(",")))),
            archive_org_per_second=_number(values, "DISTRUST_ARCHIVE_ORG_PER_SECOND"),
            loc_api_per_minute=_number(values, "DISTRUST_LOC_API_PER_MINUTE"),
            loc_text_per_minute=_number(values, "DISTRUST_LOC_TEXT_PER_MINUTE"),
        )


def _number(values: Mapping[str, str], name: str) -> float | None:
    try:
        return float(values[name]) if values.get(name) else None
    except ValueError:
        raise ParameterError(f"{name} is {values[name]!r}, which is no number") from None


@dataclass(frozen=True)
class Pace:
    """How fast an archive is asked; never part of what is asked for.

    Raises:
        ParameterError: A value lies outside its bounds.
    """

    concurrency: int = 10
    requests_per_second: float = 10.0
    attempts: int = 5
    first_delay_seconds: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.concurrency <= 64:
            raise ParameterError(f"concurrency {self.concurrency} lies outside 1..64")
        if not 0 < self.requests_per_second <= 1000:
            raise ParameterError(f"rate limit {self.requests_per_second} lies outside (0, 1000] requests per second")
        if not 1 <= self.attempts <= 20:
            raise ParameterError(f"attempts {self.attempts} lies outside 1..20")
        if not 0 <= self.first_delay_seconds <= 60:
            raise ParameterError(f"first delay {self.first_delay_seconds} lies outside 0..60 seconds")


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
    year_evidence: str = "none"
    date: str | None = None
    language: str | None = None
    licence: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Reject:
    """One item or row that became no document, and why."""

    id: str
    url: str | None
    reason: str
    detail: str = ""
    attempts: int = 1


class Source(Protocol):
    """An archive that is open for reading.

    Attributes:
        remark: What a person should know of the last plan, such as a total that the listing does not reach.
    """

    remark: str

    async def count(self) -> int | None:
        """Ask how many items there are, at the cost of a request or two; none if the archive does not tell."""
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
    """Return how many items to plan for `limit` documents: a quarter more, since some items cannot be had."""
    return limit + limit // 4 + 10


async def settle(document: Awaitable[Document], source: str, item: Item, tally: Tally) -> Document | Reject:
    """Wait for an item's document; what cannot be had becomes a reject with its reason and tries.

    Raises:
        ArchiveAway: The archive is away, which concerns every item.
        SourceUnavailable: The whole source cannot be read.
    """
    try:
        return await document
    except ArchiveAway:
        raise
    except (ItemUnavailable, CorruptAnswer, ArchiveBusy) as error:
        return reject_of(error, source, item, tally)


def reject_of(error: ItemUnavailable | CorruptAnswer | ArchiveBusy, source: str, item: Item, tally: Tally) -> Reject:
    """Make the reject of an item out of the error that kept it from being had."""
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


@dataclass(frozen=True)
class Archives:
    """What all sources of a process share: where the archives are, how fast they are asked, and the web to them."""

    connection: Connection
    pace: Pace
    web: Web

    def open(self, spec: SourceSpec, workspace: Path | None = None) -> AbstractAsyncContextManager[Source]:
        """Open the archive that a catalogue entry names; close it with the context.

        Args:
            spec: The catalogue entry.
            workspace: A folder of this source's own for what an interrupted read goes on from: half a file, the
                position in a stream. Losing it costs time, never correctness. None: nothing is kept.
        """
        # The adapters import this module, and one of them imports `datasets`, which takes seconds to load.
        year = datetime.now(UTC).year
        match spec.archive:
            case "internet_archive":
                from tasks.sources.internet_archive import open_internet_archive

                return open_internet_archive(spec, self.connection, self.pace, self.web, year, workspace)
            case "chronicling_america" if spec.bulk:
                from tasks.sources.newspaper_batches import open_newspaper_batches

                return open_newspaper_batches(spec, self.connection, self.pace, self.web, year, workspace)
            case "chronicling_america":
                from tasks.sources.chronicling_america import open_chronicling_america

                return open_chronicling_america(spec, self.connection, self.pace, self.web, year)
            case "hugging_face":
                from tasks.sources.hugging_face import open_hugging_face

                return open_hugging_face(spec, self.connection, self.pace, self.web, year, workspace)
            case "local_files":
                from tasks.sources.local_files import open_local_files

                return open_local_files(spec, year)
