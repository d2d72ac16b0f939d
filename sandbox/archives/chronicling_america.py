"""The sandbox Library of Congress: the newspaper search of loc.gov and the text service beside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

from aiohttp import web
from multidict import MultiMapping

from sandbox.archives.documents import SandboxDocument, names_phrase
from sandbox.archives.newspaper_pages import NewspaperPage, PageBinder, page_result
from sandbox.archives.serving import Traffic, add_routes
from sandbox.archives.text_spool import TextSpool

PAGE_SIZE, MAX_PAGE_SIZE = 40, 160
SEARCH_DEPTH = 100_000
"""Nothing past this result is served: a bigger search must be cut by dates."""


class SandboxChroniclingAmerica:
    """Newspaper pages, found by date and read by segment."""

    def __init__(self, folder: Path) -> None:
        self._spool = TextSpool(folder / "chronicling-america.txt")
        self._binder = PageBinder(self._spool)
        self._pages: list[NewspaperPage] = []
        self._segments: dict[str, NewspaperPage] = {}

    def add(self, document: SandboxDocument) -> None:
        """Add a document as one page."""
        page = self._binder.bind(document)
        self._pages.append(page)
        self._segments[page.segment] = page

    def finish(self) -> None:
        """Stop adding."""
        self._pages.sort(key=lambda page: (page.day, page.lccn, page.edition, page.image))
        self._spool.finish()

    def close(self) -> None:
        """Let go of the texts."""
        self._spool.close()

    def application(self, traffic: Traffic) -> web.Application:
        """Build the application of www.loc.gov."""
        app = web.Application()
        add_routes(app, traffic, [("loc-search", "GET", "/collections/chronicling-america/", self._search)])
        return app

    def text_application(self, traffic: Traffic) -> web.Application:
        """Build the application of tile.loc.gov."""
        app = web.Application()
        add_routes(app, traffic, [("loc-text", "GET", "/text-services/word-coordinates-service", self._text)])
        return app

    async def _search(self, request: web.Request) -> web.StreamResponse:
        query = request.query
        if query.get("fo") != "json":
            return web.Response(text="<!DOCTYPE html><title>Search results</title>", content_type="text/html")
        try:
            size = min(max(int(query.get("c", PAGE_SIZE)), 1), MAX_PAGE_SIZE)
            number = int(query.get("sp", 1))
            found = list(self._matching(query))
        except ValueError as error:
            return web.json_response({"status": 400, "error": str(error)}, status=400)
        start = (number - 1) * size
        if number < 1 or start >= SEARCH_DEPTH or (start and start >= len(found)):
            return web.json_response({"status": 404}, status=404)
        shown = found[start : start + size]
        results = [self._result(page, start + position) for position, page in enumerate(shown, start=1)]
        answer = {"results": results, "pagination": _pagination(request, number, size, len(found), len(shown))}
        wanted = [name for name in query.get("at", "").split(",") if name]
        return web.json_response({name: value for name, value in answer.items() if not wanted or name in wanted})

    def _result(self, page: NewspaperPage, index: int) -> dict[str, Any]:
        return page_result(page, index, self._spool.read(page.slot, 0, 4_000).decode(errors="ignore"))

    def _matching(self, query: MultiMapping[str]) -> Iterator[NewspaperPage]:
        first, last = date.min, date.max
        if "dates" in query:
            first, last = _date_range(query["dates"])
        # The real search drops these two without a word unless the search is an advanced one.
        if query.get("searchType") == "advanced":
            first = date.fromisoformat(query.get("start_date") or first.isoformat())
            last = date.fromisoformat(query.get("end_date") or last.isoformat())
        facets = [_facet(entry) for entry in query.get("fa", "").split("|") if entry]
        front = query.get("front_pages_only") == "true"
        pages = reversed(self._pages) if query.get("sb") == "date_desc" else iter(self._pages)
        # Words that need not stand side by side are not imitated.
        phrase = query.get("qs", "") if query.get("ops") == "PHRASE" else ""
        for page in pages:
            inside = first <= page.day <= last and (page.image == 1 or not front)
            if inside and all(holds(page) for holds in facets) and self._names(page, phrase):
                yield page

    def _names(self, page: NewspaperPage, phrase: str) -> bool:
        return not phrase or names_phrase(self._spool.read(page.slot).decode(), phrase)

    async def _text(self, request: web.Request) -> web.StreamResponse:
        page = self._segments.get(request.query.get("segment", ""))
        if page is None:
            return web.json_response({"error": "no such segment"}, status=404)
        if request.query.get("full_text") != "1":
            return web.json_response({page.segment: {"coords": {}, "height": "29600", "width": "23372"}})
        text = self._spool.read(page.slot).decode()
        return web.json_response({page.segment: {"full_text": text, "height": "29600", "width": "23372"}})


def _pagination(request: web.Request, number: int, size: int, found: int, shown: int) -> dict[str, Any]:
    """Describe a page of results: ``of`` counts results, ``total`` counts pages."""
    total = math.ceil(found / size)
    start = (number - 1) * size

    def link(target: int) -> str | None:
        if not 1 <= target <= total:
            return None
        return str(request.url.update_query(sp=str(target)))

    return {
        "current": number,
        "first": link(1) if number > 1 else None,
        "from": start + 1 if shown else 0,
        "last": link(total) if number < total else None,
        "next": link(number + 1),
        "of": found,
        "page_list": [{"number": number, "url": None}],
        "perpage": size,
        "perpage_options": [20, 40, 80, 160],
        "previous": link(number - 1),
        "results": f"{start + 1} - {start + shown}",
        "to": start + shown,
        "total": total,
    }


def _date_range(text: str) -> tuple[date, date]:
    """Read ``1850/1920`` or ``1850-01-01/1850-12-31``."""
    first, _, last = text.partition("/")
    last = last or first
    return (
        date.fromisoformat(first if "-" in first else f"{first}-01-01"),
        date.fromisoformat(last if "-" in last else f"{last}-12-31"),
    )


def _facet(entry: str) -> Callable[[NewspaperPage], bool]:
    """Read one ``facet:value``; a facet that is not known holds for no page, as at the real search."""
    name, _, value = entry.partition(":")
    match name:
        case "number_lccn":
            return lambda page: page.lccn == value
        case "language":
            return lambda page: page.language == value.casefold()
        case "partof_title":
            return lambda page: page.paper == value.casefold()
        case "batch":
            return lambda page: page.batch == f"batch_{value}"
        case _:
            return lambda page: False
