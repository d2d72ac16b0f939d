"""Chronicling America at loc.gov: find newspaper pages by date, take their text from the text services."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

from storage.errors import CorruptAnswer, ItemUnavailable, SourceUnavailable
from storage.shard_plan import Item
from tasks.sources.catalogue import SourceSpec
from tasks.sources.dates import year_of
from tasks.sources.http import ArchiveClient, Clock, Tally, courteous_rate, is_loopback
from tasks.sources.source import Connection, Document, Pace, Reject, reserve, settle

PAGE_SIZE = 100
DEPTH_LIMIT = 100_000
"""The search shows nothing past this many hits, so a slice with as many is cut in two."""
PUBLIC_API_PER_MINUTE = 20.0
PUBLIC_TEXT_PER_MINUTE = 150.0
BLOCK_SECONDS = 3600.0
"""How long loc.gov shuts out a client that was too fast; its 429 names no pause."""

_WORDS = "word-coordinates-service"
_SEGMENT = re.compile(r"/service/[\w./:-]+\.xml", re.ASCII)
_PAGE_URL = re.compile(
    r"/(?:resource|item)/(?P<lccn>[\w-]+)/(?P<day>\d{4}-\d{2}-\d{2})/(?P<edition>ed-\d+)/?$", re.ASCII
)
_IMAGE_TITLE = re.compile(r"^Image \d+ of ")


@dataclass(frozen=True)
class Slice:
    """A span of days, both included."""

    start: date
    end: date

    def halves(self) -> tuple[Slice, Slice]:
        """Cut the span in two."""
        middle = self.start + (self.end - self.start) // 2
        return Slice(self.start, middle), Slice(middle + timedelta(days=1), self.end)


@asynccontextmanager
async def open_chronicling_america(
    spec: SourceSpec, connection: Connection, pace: Pace, current_year: int, clock: Clock | None = None
) -> AsyncIterator[ChroniclingAmerica]:
    """Open Chronicling America for one catalogue entry, with one pace for its search and one for its texts."""

    def client(root: str, per_minute: float | None, public: float) -> ArchiveClient:
        ceiling = None if per_minute is None else per_minute / 60
        return ArchiveClient(
            root,
            requests_per_second=courteous_rate(pace.requests_per_second, ceiling, public / 60, root),
            contact=connection.contact,
            allowed_hosts=connection.allowed_hosts,
            concurrency=pace.concurrency,
            attempts=pace.attempts,
            first_delay_seconds=pace.first_delay_seconds,
            busy_pause_seconds=None if is_loopback(root) else BLOCK_SECONDS,
            clock=clock,
        )

    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(client(connection.loc_url, spec.api_per_minute, PUBLIC_API_PER_MINUTE))
        texts = await stack.enter_async_context(
            client(connection.loc_text_url, spec.text_per_minute, PUBLIC_TEXT_PER_MINUTE)
        )
        yield ChroniclingAmerica(spec, api, texts, current_year)


class ChroniclingAmerica:
    """Newspaper pages of a span of days, spread over that span."""

    def __init__(self, spec: SourceSpec, api: ArchiveClient, texts: ArchiveClient, current_year: int) -> None:
        self._spec = spec
        self._api = api
        self._texts = texts
        self._current_year = current_year

    async def plan(self, limit: int) -> list[Item]:
        """Search the span of the catalogue entry, slice by slice.

        Raises:
            SourceUnavailable: The search fails, ignores the dates, or finds nothing.
        """
        if self._spec.date_from is None or self._spec.date_to is None:
            raise SourceUnavailable(f"source {self._spec.name!r} names no dates; set date_from and date_to")
        pages: dict[str, Item] = {}
        whole, wanted = Slice(self._spec.date_from, self._spec.date_to), reserve(limit)
        try:
            # A half with too few pages leaves a gap that the next round fills from the halves that have more.
            while len(pages) < wanted and await self._collect(whole, wanted - len(pages), pages):
                pass
        except ItemUnavailable as error:
            raise SourceUnavailable(f"source {self._spec.name!r}: the search cannot be used ({error})") from error
        if not pages:
            raise SourceUnavailable(
                f"source {self._spec.name!r}: no newspaper pages from {self._spec.date_from} to {self._spec.date_to}; "
                "widen the dates"
            )
        return list(pages.values())

    async def _collect(self, span: Slice, quota: int, pages: dict[str, Item]) -> int:
        """Add up to `quota` pages of a slice; return how many were added.

        A slice that is too deep is halved by time, each half with half the quota: few documents out of a long
        span come from all over it, without a search through all of it.
        """
        answer = await self._search(span, 1)
        if _hits(answer) < DEPTH_LIMIT or span.start == span.end:
            return await self._read_slice(span, quota, pages, answer)
        early, late = span.halves()
        added = await self._collect(early, (quota + 1) // 2, pages)
        if quota > added:
            added += await self._collect(late, quota - added, pages)
        return added

    async def _read_slice(self, span: Slice, quota: int, pages: dict[str, Item], answer: dict[str, Any]) -> int:
        before, number = len(pages), 1
        last = min(_pages(answer), DEPTH_LIMIT // PAGE_SIZE)
        while True:
            for item in self._planned(answer["results"], span):
                if len(pages) - before >= quota:
                    return quota
                pages.setdefault(item.native_id, item)
            number += 1
            if number > last or not answer["results"] or len(pages) - before >= quota:
                return len(pages) - before
            answer = await self._search(span, number)

    async def _search(self, span: Slice, number: int) -> dict[str, Any]:
        params: dict[str, str | int] = {
            "dl": "page",
            "fo": "json",
            "at": "results,pagination",
            # The dates below count only in an advanced search, even with an empty query.
            "searchType": "advanced",
            "qs": "",
            "start_date": span.start.isoformat(),
            "end_date": span.end.isoformat(),
            "c": PAGE_SIZE,
            "sp": number,
        }
        if self._spec.facets:
            params["fa"] = "|".join(self._spec.facets)
        if self._spec.front_pages_only:
            params["front_pages_only"] = "true"
        url = self._api.url("collections", "chronicling-america", "")
        answer = await self._api.get_json(url, params, expect=("results", "pagination"))
        if not isinstance(answer["results"], list) or not isinstance(answer["pagination"], dict):
            raise CorruptAnswer(f"{url} answered with another shape than results[] and pagination{{}}")
        return answer

    def _planned(self, hits: list[Any], span: Slice) -> list[Item]:
        items = [item for hit in hits if (item := plan_page(hit)) is not None]
        if hits and not items:
            raise CorruptAnswer(f"none of {len(hits)} search hits of {span.start}..{span.end} is a newspaper page")
        for item in items:
            if not span.start.isoformat() <= item.data["date"] <= span.end.isoformat():
                raise SourceUnavailable(
                    f"source {self._spec.name!r}: asked for {span.start}..{span.end}, loc.gov answered with a page of "
                    f"{item.data['date']}: it ignores the dates, so nothing of this answer is used"
                )
        return items

    async def fetch(self, item: Item) -> AsyncIterator[Document | Reject]:
        """Read the text of one page."""
        tally = Tally()
        yield await settle(self._document(item, tally), self._spec.name, item, tally)

    async def _document(self, item: Item, tally: Tally) -> Document:
        data = item.data
        year = year_of(data["date"], self._current_year)
        if reason := self._spec.outside_years(year):
            raise ItemUnavailable(reason, f"the page is of {data['date']}")
        if not data["segment"]:
            raise ItemUnavailable("no-text", "the search names no text service for this page")
        answer = await self._texts.get_json(
            self._texts.url("text-services", _WORDS),
            {"segment": data["segment"], "format": "alto_xml", "full_text": 1},
            tally=tally,
        )
        text = full_text(answer)
        if not text.strip():
            raise ItemUnavailable("no-text", "the page has no recognised text")
        return Document(
            id=f"{self._spec.name}:{item.native_id}",
            source=self._spec.name,
            source_type=self._spec.source_type,
            text=text,
            url=item.url,
            title=data["title"] or None,
            year=year,
            year_evidence="none" if year is None else "metadata",
            date=data["date"],
            language=data["language"] or None,
            licence=self._spec.licence,
            extra={key: data[key] for key in ("part_of", "lccn", "sequence", "place") if data[key]},
        )


def plan_page(hit: Any) -> Item | None:
    """Read one search hit as an item; none if it does not tell which page of which issue it is."""
    if not isinstance(hit, dict):
        return None
    address = _first(hit.get("id")).replace("http://", "https://", 1)
    parts = urlsplit(address)
    known = _PAGE_URL.search(parts.path)
    if known is None:
        return None
    sequence = next(iter(parse_qs(parts.query).get("sp", [])), "1")
    lccn, day, edition = known["lccn"], known["day"], known["edition"]
    title = _IMAGE_TITLE.sub("", _first(hit.get("title")))
    return Item(
        native_id=_first(hit.get("page_id")) or f"{lccn}/{day}/{edition}/seq-{sequence}",
        url=address,
        data={
            "date": _first(hit.get("date")) or day,
            "title": f"{title}, page {sequence}" if title else "",
            "language": _first(hit.get("language")),
            "lccn": lccn,
            "sequence": sequence,
            "place": ", ".join(filter(None, (_first(hit.get("location_city")), _first(hit.get("location_state"))))),
            "part_of": f"{lccn}/{day}",
            "segment": find_segment(hit),
        },
    )


def find_segment(hit: dict[str, Any]) -> str:
    """Return the path by which the text services know a page, or nothing."""
    images = hit.get("image_url")
    candidates = [*(images if isinstance(images, list) else [images]), hit.get("word_coordinates_url")]
    for address in candidates:
        if isinstance(address, str) and _WORDS in address:
            for segment in parse_qs(urlsplit(address).query).get("segment", []):
                if _SEGMENT.fullmatch(segment) and ".." not in segment:
                    return segment
    return ""


def full_text(answer: dict[str, Any]) -> str:
    """Return the text of a page; its key is the segment, but it is the only one, so the name is not relied on.

    Raises:
        CorruptAnswer: The answer does not hold exactly one page.
    """
    values = list(answer.values())
    if len(values) != 1 or not isinstance(values[0], dict):
        raise CorruptAnswer(f"the text service answered with {len(values)} entries, one page was asked for")
    text = values[0].get("full_text")
    return text if isinstance(text, str) else ""


def _hits(answer: dict[str, Any]) -> int:
    # `of` counts results and `total` counts pages, whatever their names suggest.
    return _count(answer, "of")


def _pages(answer: dict[str, Any]) -> int:
    return _count(answer, "total")


def _count(answer: dict[str, Any], key: str) -> int:
    value = answer["pagination"].get(key)
    if isinstance(value, bool) or not isinstance(value, int | None):
        raise CorruptAnswer(f"the search answered with pagination.{key} = {value!r}, a number was expected")
    return value or 0


def _first(value: Any) -> str:
    values = value if isinstance(value, list) else [value]
    return next((str(entry).strip() for entry in values if entry not in (None, "")), "")
