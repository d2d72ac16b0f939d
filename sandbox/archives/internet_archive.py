"""The sandbox Internet Archive: scrape, metadata, and downloads that redirect to a second host."""

from __future__ import annotations

import base64
import binascii
import json
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from aiohttp import web

from sandbox.archives.documents import SandboxDocument, names_phrase
from sandbox.archives.internet_archive_items import (
    UNAVAILABLE,
    ArchiveItem,
    identifier_of,
    make_item,
    metadata_record,
    search_fields,
    unavailable_item,
)
from sandbox.archives.serving import Traffic, add_routes, send_bytes
from sandbox.archives.text_spool import TextSpool

SCRAPE_MINIMUM, SCRAPE_DEFAULT, SCRAPE_MAXIMUM = 100, 5_000, 10_000

_GROUP = re.compile(r'\(((?:title|subject):"[^"]*"(?: OR (?:title|subject):"[^"]*")*)\)')
_CLAUSE = re.compile(r'(NOT\s+|-)?([A-Za-z][\w-]*):(\([^)]*\)|\[[^\]]*\]|"[^"]*"|[^\s()]+)')


class SandboxInternetArchive:
    """Items with one text file each."""

    def __init__(self, folder: Path) -> None:
        self._spool = TextSpool(folder / "internet-archive.txt")
        self._items: dict[str, ArchiveItem] = {}
        self.file_url = ""
        """Base URL of the second host; set once its port is known."""

    def add(self, document: SandboxDocument) -> None:
        """Add a document as one item."""
        base = identifier_of(document.native_id)
        identifier, number = base, 2
        while identifier in self._items:
            identifier, number = f"{base}-{number}", number + 1
        self._items[identifier] = make_item(document, identifier, self._spool.append(document.text))

    def finish(self, unavailable: bool) -> None:
        """Stop adding; with `unavailable`, every source that has items gets one that cannot be had."""
        collections = {item.collection for item in self._items.values()}
        for source in UNAVAILABLE if unavailable else ():
            item = unavailable_item(source)
            if item.collection in collections:
                self._items[item.identifier] = item
        self._items = dict(sorted(self._items.items()))
        self._spool.finish()

    def close(self) -> None:
        """Let go of the texts."""
        self._spool.close()

    def application(self, traffic: Traffic) -> web.Application:
        """Build the application of archive.org."""
        app = web.Application()
        routes = [
            ("ia-scrape", "GET", "/services/search/v1/scrape", self._scrape),
            ("ia-metadata", "GET", "/metadata/{identifier}", self._metadata),
            ("ia-download", "GET", "/download/{identifier}/{name:.+}", self._download),
        ]
        add_routes(app, traffic, routes)
        return app

    def file_application(self, traffic: Traffic) -> web.Application:
        """Build the application of the host that downloads redirect to."""
        app = web.Application()
        add_routes(app, traffic, [("ia-file", "GET", "/1/items/{identifier}/{name:.+}", self._file)])
        return app

    def _matching(self, query: str) -> list[ArchiveItem]:
        matches = parse_query(query)
        return [item for item in self._items.values() if matches(item)]

    async def _scrape(self, request: web.Request) -> web.StreamResponse:
        parameters = request.query
        found = self._matching(parameters.get("q", ""))
        try:
            count = int(parameters.get("count", SCRAPE_DEFAULT))
        except ValueError:
            count = 0
        if not SCRAPE_MINIMUM <= count <= SCRAPE_MAXIMUM:
            return _scrape_error(f"count must be between {SCRAPE_MINIMUM} and {SCRAPE_MAXIMUM}")
        start = 0
        if cursor := parameters.get("cursor", ""):
            last = _read_cursor(cursor)
            if last is None:
                return _scrape_error("the cursor is not valid")
            start = bisect_right([item.identifier for item in found], last)
        wanted = [name for name in parameters.get("fields", "").split(",") if name]
        page = found[start : start + count]
        answer: dict[str, Any] = {"items": [_projected(item, wanted or ["identifier"]) for item in page]}
        answer |= {"count": len(page), "total": len(found)}
        if start + count < len(found):
            answer["cursor"] = _write_cursor(page[-1].identifier)
        return web.json_response(answer)

    async def _metadata(self, request: web.Request) -> web.StreamResponse:
        item = self._items.get(request.match_info["identifier"])
        # The real archive answers an unknown identifier with 200 and an empty object.
        return web.json_response({} if item is None else metadata_record(item, self.file_url.removeprefix("http://")))

    async def _download(self, request: web.Request) -> web.StreamResponse:
        item = self._items.get(request.match_info["identifier"])
        name = request.match_info["name"]
        if item is None or item.access in ("dark", "no-text") or name != item.text_name:
            return web.Response(status=404, text="Item or file not found\n")
        if item.access != "open":
            return web.Response(status=401 if item.access == "restricted" else 403, text="Access restricted\n")
        location = f"{self.file_url}/1/items/{item.identifier}/{quote(name)}"
        return web.Response(status=302, headers={"Location": location})

    async def _file(self, request: web.Request) -> web.StreamResponse:
        item = self._items.get(request.match_info["identifier"])
        if item is None or item.slot is None or request.match_info["name"] != item.text_name:
            return web.Response(status=404, text="Not found\n")
        slot = item.slot
        return await send_bytes(
            request, slot.length, lambda start, size: self._spool.read(slot, start, size), "text/plain"
        )


def parse_query(query: str) -> Callable[[ArchiveItem], bool]:
    """Return the predicate of a query: its ``collection``, ``subject`` and ``identifier`` clauses decide.

    A value may be a word, a quoted phrase or a parenthesis of words joined by OR; ``NOT`` and ``-`` turn a clause
    round. Clauses on one field are alternatives, fields must all hold, and of a parenthesis of ``title`` and
    ``subject`` clauses one. Other fields, ranges included, are let through: the sandbox holds only what a source
    should find.
    """
    groups = [_CLAUSE.findall(group) for group in _GROUP.findall(query)]
    query = _GROUP.sub("", query)
    wanted: dict[str, set[str]] = {}
    banned: dict[str, set[str]] = {}
    for negation, name, value in _CLAUSE.findall(query):
        if name in ("collection", "subject", "identifier"):
            (banned if negation else wanted).setdefault(name, set()).update(_alternatives(value))

    def matches(item: ArchiveItem) -> bool:
        return (
            all(_holds(item, name, values) for name, values in wanted.items())
            and not any(_holds(item, name, values) for name, values in banned.items())
            and all(any(_holds(item, name, set(_alternatives(value))) for _, name, value in group) for group in groups)
        )

    return matches


def _alternatives(value: str) -> Iterable[str]:
    words = re.findall(r'"([^"]*)"|([^\s()"]+)', value)
    return {(quoted or word).casefold() for quoted, word in words if word not in ("OR", "AND")}


def _holds(item: ArchiveItem, name: str, values: set[str]) -> bool:
    if name == "collection":
        return not values.isdisjoint((item.collection, "sandbox"))
    if name == "identifier":
        return item.identifier.casefold() in values
    if name == "title":
        return any(names_phrase(item.about.title or "", value) for value in values)
    return any(value in item.subject for value in values)


def _projected(item: ArchiveItem, wanted: list[str]) -> dict[str, Any]:
    names = {name for entry in wanted for name in entry.split(",")} | {"identifier"}
    fields = search_fields(item)
    return fields if not wanted else {name: value for name, value in fields.items() if name in names}


def _write_cursor(identifier: str) -> str:
    return base64.b64encode(json.dumps([{"identifier": identifier}], separators=(",", ":")).encode()).decode()


def _read_cursor(cursor: str) -> str | None:
    try:
        return str(json.loads(base64.b64decode(cursor, validate=True))[0]["identifier"])
    except (binascii.Error, ValueError, LookupError, TypeError):
        return None


def _scrape_error(message: str) -> web.Response:
    return web.json_response({"error": message, "errorType": "RequestError"}, status=400)
