"""The Internet Archive: enumerate with the Scrape API, read an item's metadata, download its plain text."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from storage.errors import CorruptAnswer, ItemUnavailable, SourceUnavailable
from storage.shard_plan import Item
from tasks.sources.catalogue import SourceSpec
from tasks.sources.dates import date_of, year_of
from tasks.sources.http import ArchiveClient, Tally
from tasks.sources.source import NOTHING, Connection, Document, Pace, Reject, item_id, reserve, settle
from tasks.sources.web import Web, courteous_rate

TEXT_FORMAT = "DjVuTXT"
PUBLIC_REQUESTS_PER_SECOND = 2.0
LENDING_COLLECTIONS = frozenset({"inlibrary", "printdisabled"})
MIN_PAGE, MAX_PAGE = 100, 5000

STAMPS = {
    "google-books": "This is a digital copy of a book that was preserved for generations",
    "internet-archive": "Digitized by the Internet Archive",
    "google": "Digitized by Google",
    "jstor-early-journals": "Early Journal Content on JSTOR",
    "microsoft": "Digitized by Microsoft",
}
"""Words of the digitisers, not of the author; where they stand is recorded, so that a reader can leave them out."""
STAMPED_CHARS = 20_000

_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)


@asynccontextmanager
async def open_internet_archive(
    spec: SourceSpec,
    connection: Connection,
    pace: Pace,
    web: Web,
    current_year: int,
    workspace: Path | None = None,
) -> AsyncIterator[InternetArchive]:
    """Open the Internet Archive for one catalogue entry."""
    root = connection.archive_org_url
    client = ArchiveClient(
        web,
        root,
        requests_per_second=courteous_rate(
            pace.requests_per_second,
            spec.requests_per_second,
            PUBLIC_REQUESTS_PER_SECOND,
            root,
            connection.archive_org_per_second,
        ),
        allowed_hosts=connection.allowed_hosts,
        attempts=pace.attempts,
        first_delay_seconds=pace.first_delay_seconds,
    )
    with TemporaryDirectory(prefix="distrust-") as temporary:
        yield InternetArchive(spec, client, current_year, workspace or Path(temporary))


class InternetArchive:
    """Items of the Internet Archive that a search finds; one document per item, its largest readable text."""

    def __init__(self, spec: SourceSpec, client: ArchiveClient, current_year: int, workspace: Path) -> None:
        self._spec = spec
        self._client = client
        self._current_year = current_year
        self._workspace = workspace
        self._most_on_a_page = MAX_PAGE

    async def count(self) -> int | None:
        """Ask the search for its total."""
        total = (await self._page("", MIN_PAGE)).get("total")
        return total if isinstance(total, int) else None

    async def plan(self, limit: int, known: Mapping[str, Item] = NOTHING) -> list[Item]:
        """Enumerate the search, in the order of the archive, passing over what is known.

        Raises:
            SourceUnavailable: The search cannot be used.
            CorruptAnswer: The listing ends early or turns in a circle.
        """
        try:
            identifiers = await self._enumerate(reserve(limit), known)
        except ItemUnavailable as error:
            raise SourceUnavailable(f"source {self._spec.name!r}: the search cannot be used ({error})") from error
        return [Item(native_id=name, url=self._details(name)) for name in identifiers]

    async def _enumerate(self, wanted: int, known: Mapping[str, Item]) -> list[str]:
        found: dict[str, None] = {}
        seen: set[str] = set()
        first_of_page: set[str] = set()
        cursor, with_count = "", True
        while True:
            page = await self._page(cursor, wanted if with_count else None)
            names = [str(entry["identifier"]) for entry in page["items"] if _has_identifier(entry)]
            if names and names[0] in first_of_page:
                # Some servers ignore the cursor when a count comes with it and send the first page for ever.
                if not with_count:
                    raise CorruptAnswer(f"the search {self._spec.query!r} sends the same page again and again")
                with_count = False
                continue
            first_of_page.update(names[:1])
            seen.update(names)
            found.update(dict.fromkeys(name for name in names if name not in known))
            cursor = str(page.get("cursor") or "")
            if len(found) >= wanted:
                return list(found)[:wanted]
            if not cursor:
                self._check_complete(page, len(seen))
                return list(found)
            if not names:
                raise CorruptAnswer(f"the search {self._spec.query!r} sends an empty page with a cursor")

    async def _page(self, cursor: str, wanted: int | None) -> dict[str, Any]:
        params: dict[str, str | int] = {"q": self._spec.query, "fields": "identifier"}
        if self._spec.sorts:
            params["sorts"] = self._spec.sorts
        if wanted is not None:
            params["count"] = count = min(self._most_on_a_page, max(MIN_PAGE, wanted))
        if cursor:
            params["cursor"] = cursor
        try:
            page = await self._client.get_json(
                self._client.url("services", "search", "v1", "scrape"), params, expect=("items",)
            )
        except ItemUnavailable as error:
            if error.reason != "too-large" or wanted is None or count == MIN_PAGE:
                raise
            self._most_on_a_page = max(MIN_PAGE, count // 2)
            return await self._page(cursor, wanted)
        if not isinstance(page["items"], list):
            raise CorruptAnswer(f"the search {self._spec.query!r} sends items that are no list")
        return page

    def _check_complete(self, page: dict[str, Any], found: int) -> None:
        total = page.get("total")
        if isinstance(total, int) and found < total:
            raise CorruptAnswer(
                f"the search {self._spec.query!r} ended after {found} of {total} items; a short listing is an error"
            )

    async def fetch(self, item: Item) -> AsyncIterator[Document | Reject]:
        """Read one item."""
        tally = Tally()
        yield await settle(self._document(item, tally), self._spec.name, item, tally)

    def _details(self, identifier: str) -> str:
        return str(self._client.url("details", identifier))

    async def _document(self, item: Item, tally: Tally) -> Document:
        identifier = item.native_id
        if not _IDENTIFIER.fullmatch(identifier):
            raise ItemUnavailable("bad-identifier", f"{identifier!r} is no identifier of the archive")
        answer = await self._metadata(identifier, tally)
        metadata = check_item(answer, identifier)
        year = year_of(first(metadata.get("date")), self._current_year)
        if year is None:
            year = year_of(first(metadata.get("year")), self._current_year)
        if reason := self._spec.outside_years(year):
            raise ItemUnavailable(reason, f"metadata.date is {metadata.get('date')!r}")
        file = choose_text(answer)
        try:
            text = await self._download(identifier, file, tally)
        except ItemUnavailable as error:
            if error.reason != "not-found":
                raise
            # A file may have been renamed since the metadata was written, so they are read once more. By then the whole
            # item may be gone.
            answer = await self._metadata(identifier, tally)
            metadata = check_item(answer, identifier)
            again = choose_text(answer)
            if again == file:
                raise
            file, text = again, await self._download(identifier, again, tally)
        return self._described(item, metadata, str(file["name"]), year, text)

    async def _metadata(self, identifier: str, tally: Tally) -> dict[str, Any]:
        return await self._client.get_json(self._client.url("metadata", identifier), tally=tally)

    async def _download(self, identifier: str, file: dict[str, Any], tally: Tally) -> str:
        name = str(file["name"])
        if name.startswith("/") or ".." in name.split("/"):
            raise ItemUnavailable("bad-file-name", f"the item lists the file {name!r}")
        size = _integer(file.get("size"))
        if size is not None and size > self._spec.max_file_bytes:
            raise ItemUnavailable("too-large", f"{name} has {size} bytes, the cap is {self._spec.max_file_bytes}")
        # The name on disk is made here; neither the identifier nor the file's name has a say in it.
        path = self._workspace / hashlib.sha256(f"{identifier}/{name}".encode()).hexdigest()[:32]
        await self._client.save(
            self._client.url("download", identifier, name, keep_slashes=True),
            path,
            cap=self._spec.max_file_bytes,
            size=size,
            checksum=("md5", str(file["md5"])) if file.get("md5") else None,
            tally=tally,
        )
        body = await asyncio.to_thread(path.read_bytes)
        path.unlink()
        return body.decode("utf-8", errors="replace")

    def _described(self, item: Item, metadata: dict[str, Any], name: str, year: int | None, text: str) -> Document:
        extra: dict[str, Any] = {
            "identifier": item.native_id,
            "file": name,
            "collection": every(metadata.get("collection")),
        }
        if stamps := find_stamps(text):
            extra["boilerplate"] = stamps
        if isinstance(metadata.get("part_of"), str):
            extra["part_of"] = metadata["part_of"]
        return Document(
            id=item_id(self._spec.name, item),
            source=self._spec.name,
            source_type=self._spec.source_type,
            text=text,
            url=item.url,
            title=first(metadata.get("title")),
            author="; ".join(every(metadata.get("creator"))) or None,
            year=year,
            year_evidence="none" if year is None else "metadata",
            date=date_of(first(metadata.get("date"))),
            language=first(metadata.get("language")),
            licence=first(metadata.get("licenseurl"))
            or first(metadata.get("possible-copyright-status"))
            or self._spec.licence,
            extra=extra,
        )


def check_item(answer: dict[str, Any], identifier: str) -> dict[str, Any]:
    """Return the metadata of an item that may be read.

    Raises:
        ItemUnavailable: The item does not exist, is dark, or is lent or restricted.
        CorruptAnswer: The answer is about something else or has another shape.
    """
    if not answer:
        raise ItemUnavailable("not-found", f"there is no item {identifier!r}")
    if answer.get("is_dark") in (True, "true"):
        raise ItemUnavailable("dark", f"the archive keeps {identifier!r} out of sight")
    metadata = answer.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(answer.get("files"), list):
        raise CorruptAnswer(f"the metadata of {identifier!r} lacks metadata{{}} or files[]")
    told = first(metadata.get("identifier"))
    if told is not None and told != identifier:
        raise CorruptAnswer(f"the metadata of {identifier!r} is about {told!r}")
    lent = LENDING_COLLECTIONS.intersection(every(metadata.get("collection")))
    if (first(metadata.get("access-restricted-item")) or "").lower() == "true" or lent:
        raise ItemUnavailable("access-restricted", f"{identifier!r} can only be borrowed, not downloaded")
    return metadata


def choose_text(answer: dict[str, Any]) -> dict[str, Any]:
    """Return the entry of the largest plain text that is not private.

    Raises:
        ItemUnavailable: The item has no plain text, or only private ones.
    """
    texts = [
        file
        for file in answer["files"]
        if isinstance(file, dict) and file.get("format") == TEXT_FORMAT and file.get("name")
    ]
    if not texts:
        raise ItemUnavailable("no-text", f"none of the {len(answer['files'])} files has the format {TEXT_FORMAT}")
    readable = [file for file in texts if file.get("private") not in (True, "true")]
    if not readable:
        raise ItemUnavailable("private-file", f"all {len(texts)} texts are private")
    return max(readable, key=lambda file: (_integer(file.get("size")) or 0, str(file["name"])))


def find_stamps(text: str) -> dict[str, int]:
    """Return which digitisers' stamps stand at the beginning of a text, and at which character."""
    beginning = text[:STAMPED_CHARS].lower()
    places = {name: beginning.find(stamp.lower()) for name, stamp in STAMPS.items()}
    return {name: place for name, place in places.items() if place >= 0}


def every(value: Any) -> list[str]:
    """Return a metadata value, which may be absent, a scalar or a list, as a list of non-empty strings."""
    values = value if isinstance(value, list) else [value]
    return [text for entry in values if entry is not None and (text := str(entry).strip())]


def first(value: Any) -> str | None:
    """Return the first string of a metadata value."""
    return next(iter(every(value)), None)


def _has_identifier(entry: Any) -> bool:
    return isinstance(entry, dict) and bool(entry.get("identifier"))


def _integer(value: Any) -> int | None:
    text = str(value)
    return int(text) if len(text) < 20 and text.isascii() and text.isdigit() else None
