"""Chronicling America at loc.gov: find newspaper pages by date, take their text from the text services."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any

from yarl import URL

from storage.errors import CorruptAnswer, ItemUnavailable, SourceUnavailable
from storage.shard_plan import Item
from tasks.sources.answers import check_object, media_type, parse_json
from tasks.sources.catalogue import SourceSpec
from tasks.sources.connection import Archives
from tasks.sources.dates import year_of
from tasks.sources.newspaper_pages import WORDS, full_text, plan_page, text_address
from tasks.sources.pace import Tally
from tasks.sources.searched import SearchedArchive
from tasks.sources.source import ASKED_FOR, NOTHING, Document, item_id

HITS, PAGES = "of", "total"
"""How the search names its numbers of results and of pages, whatever the words suggest."""
PAGE_SIZE = 100
DEPTH_LIMIT = 100_000
"""The search shows nothing past this many hits, so a slice with as many is cut in two."""


@dataclass(frozen=True)
class Slice:
    """A span of days, both included, and what its pages are searched for; empty: all of them."""

    start: date
    end: date
    subject: str = ""

    def halves(self) -> tuple[Slice, Slice]:
        """Cut the span in two."""
        middle = self.start + (self.end - self.start) // 2
        return replace(self, end=middle), replace(self, start=middle + timedelta(days=1))


class ChroniclingAmerica(SearchedArchive):
    """Newspaper pages of a span of days, spread over that span; the search and the texts have a pace each."""

    def __init__(self, spec: SourceSpec, archives: Archives) -> None:
        super().__init__(spec, archives)
        self._api, self._texts = archives.client(spec, "search"), archives.client(spec, "texts")
        self._known: Mapping[str, Item] = NOTHING

    async def count(self) -> int | None:
        """Ask the search how many pages the span holds; none for subjects, which it would be asked for one by one."""
        return None if self._spec.subjects else _count(await self._search(self._span(), 1), HITS)

    async def _find(self, subject: str, wanted: int, known: Mapping[str, Item]) -> list[Item]:
        self._known = known
        pages: dict[str, Item] = {}
        more = True
        # A half with too few pages leaves a gap that the next round fills from the halves that have more.
        while more and len(pages) < wanted:
            more = await self._collect(self._span(subject), wanted - len(pages), pages) > 0 and not subject
        return list(pages.values())

    def _span(self, subject: str = "") -> Slice:
        assert self._spec.date_from and self._spec.date_to  # a catalogue entry names both
        return Slice(self._spec.date_from, self._spec.date_to, subject)

    async def _collect(self, span: Slice, quota: int, pages: dict[str, Item]) -> int:
        """Add up to `quota` pages of a slice; return how many were added.

        A slice that is too deep is halved by time, each half with half the quota: few documents out of a long
        span come from all over it, without a search through all of it.
        """
        answer = await self._search(span, 1)
        if _count(answer, HITS) < DEPTH_LIMIT or span.start == span.end:
            return await self._read_slice(span, quota, pages, answer)
        early, late = span.halves()
        added = await self._collect(early, (quota + 1) // 2, pages)
        if quota > added:
            added += await self._collect(late, quota - added, pages)
        return added

    async def _read_slice(self, span: Slice, quota: int, pages: dict[str, Item], answer: dict[str, Any]) -> int:
        before, number, listed = len(pages), 1, 0
        total = min(_count(answer, HITS), DEPTH_LIMIT)
        while True:
            for item in self._planned(answer["results"], span):
                if len(pages) - before >= quota:
                    return quota
                if item.native_id not in self._known:
                    pages.setdefault(item.native_id, item)
            listed, number = listed + len(answer["results"]), number + 1
            if len(pages) - before >= quota:
                return quota
            more = number <= _count(answer, PAGES) or bool(answer["pagination"].get("next"))
            if not more or not answer["results"] or number > DEPTH_LIMIT // PAGE_SIZE:
                break
            try:
                before_this, answer = answer["results"], await self._search(span, number)
            except ItemUnavailable as error:
                if error.reason != "not-found":
                    raise
                break  # past the last page: the number of pages is an estimate
            if answer["results"] == before_this:
                break  # the search ignores the page number
        if listed < total:
            self.remark = f"the search of {span.start} to {span.end} counts {total} pages and lists {listed}"
        return len(pages) - before

    async def _search(self, span: Slice, number: int, size: int = PAGE_SIZE) -> dict[str, Any]:
        try:
            return await self._search_page(span, number, size)
        except ItemUnavailable as error:
            if error.reason != "too-large" or size == 1:
                raise
        parts = 2 if size % 2 == 0 else 5  # 100, 50, 25, 5, 1
        first, end = (number - 1) * parts + 1, number * parts
        answers = [await self._search(span, first, size // parts)]
        for part in range(first + 1, min(end, _count(answers[0], PAGES)) + 1):
            answers.append(await self._search(span, part, size // parts))
        hits = [hit for answer in answers for hit in answer["results"]]
        pages = -(-_count(answers[0], PAGES) // parts)
        return {"results": hits, "pagination": {**answers[-1]["pagination"], "total": pages}}

    async def _search_page(self, span: Slice, number: int, size: int) -> dict[str, Any]:
        params: dict[str, str | int] = {
            "dl": "page",
            "fo": "json",
            "at": "results,pagination",
            # The dates below count only in an advanced search, even with an empty query.
            "searchType": "advanced",
            "qs": span.subject,
            "start_date": span.start.isoformat(),
            "end_date": span.end.isoformat(),
            "c": size,
            "sp": number,
        }
        if span.subject:
            params["ops"] = "PHRASE"
        if self._spec.facets:
            params["fa"] = "|".join(self._spec.facets)
        if self._spec.front_pages_only:
            params["front_pages_only"] = "true"
        url = self._api.url("collections", "chronicling-america", "")
        answer = await self._api.get_json(url, params, expect=("results", "pagination"))
        if not isinstance(answer["results"], list) or not isinstance(answer["pagination"], dict):
            raise CorruptAnswer(f"{url} did not answer with results[] and pagination{{}}")
        return answer

    def _planned(self, hits: list[Any], span: Slice) -> list[Item]:
        items = [item for hit in hits if (item := plan_page(hit)) is not None]
        if hits and not items:
            raise CorruptAnswer(f"none of {len(hits)} search hits of {span.start}..{span.end} is a newspaper page")
        for item in items:
            if not span.start.isoformat() <= item.data["date"] <= span.end.isoformat():
                raise SourceUnavailable(
                    f"source {self._spec.name!r}: asked for {span.start}..{span.end}, loc.gov answered with a page of "
                    f"{item.data['date']}: it ignored the dates, so this answer is discarded"
                )
        return items

    async def _document(self, item: Item, tally: Tally) -> Document:
        data = item.data
        year = year_of(data["date"], self._current_year)
        if reason := self._spec.outside_years(year):
            raise ItemUnavailable(reason, f"the page is of {data['date']}")
        text = await self._text(item, tally)
        if not text.strip():
            raise ItemUnavailable("no-text", "the page has no recognised text")
        return Document(
            id=item_id(self._spec.name, item),
            source=self._spec.name,
            source_type=self._spec.source_type,
            text=text,
            url=item.url,
            title=data["title"] or None,
            year=year,
            date=data["date"],
            language=data["language"] or None,
            licence=self._spec.licence,
            extra={key: data[key] for key in ("part_of", "lccn", "sequence", "place", ASKED_FOR) if data.get(key)},
        )

    async def _text(self, item: Item, tally: Tally) -> str:
        segment = item.data["segment"]
        if segment:
            url = self._texts.url("text-services", WORDS)
            answer = await self._texts.get_json(
                url, {"segment": segment, "format": "alto_xml", "full_text": 1}, tally=tally
            )
            return full_text(answer)
        # Some hits name no segment; the page's own record may still lead to its text.
        record = await self._api.get_json(
            self._api.base.join(URL(item.url).relative()), {"fo": "json", "at": "page,resource,segments"}, tally=tally
        )
        address = text_address(record, self._texts.base)
        if address is None:
            raise ItemUnavailable("no-text", "neither the search nor the page's record names a text")
        body, headers = await self._texts.get_body(address, tally=tally)
        if media_type(headers) == "text/plain":
            return body.decode("utf-8", errors="replace")
        return full_text(check_object(parse_json(body, headers, str(address)), str(address), ()))


def _count(answer: dict[str, Any], key: str) -> int:
    value = answer["pagination"].get(key)
    if isinstance(value, bool) or not isinstance(value, int | None):
        raise CorruptAnswer(f"the search answered with pagination.{key} = {value!r}, a number was expected")
    return value or 0
