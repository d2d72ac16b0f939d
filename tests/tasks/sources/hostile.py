"""An Internet Archive that misbehaves item by item, over real HTTP."""

from __future__ import annotations

import asyncio
import hashlib
import re
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import cache
from typing import Any
from urllib.parse import quote

from aiohttp import web

Answer = web.StreamResponse | None
Misdeed = Callable[["HostileArchive", web.Request, bytes], Awaitable[Answer]]
"""Answers in place of the right answer; none: the right answer after all."""


@dataclass
class HostileItem:
    """One item: its text, its metadata, and what goes wrong, request by request, before it goes right."""

    text: bytes
    name: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    file: dict[str, Any] = field(default_factory=dict)
    about_metadata: list[Misdeed] = field(default_factory=list)
    about_file: list[Misdeed] = field(default_factory=list)
    for_ever: bool = False
    """Whether the last misdeed goes on for ever."""


class HostileArchive:
    """Serves items in the shapes of archive.org; `requests` counts the paths that were asked for."""

    def __init__(self, items: dict[str, HostileItem]) -> None:
        self.items = items
        self.requests: Counter[str] = Counter()
        self.times: list[float] = []
        self.down_until = 0.0
        self.uncounted = 0
        self.about_search: list[Misdeed] = []
        self.abroad: dict[str, str] = {}
        """Roots of the files that do not lie on the archive's own host."""

    def routes(self) -> dict[str, Callable[[web.Request], Awaitable[web.StreamResponse]]]:
        """What to serve."""
        return {
            "/services/search/v1/scrape": self.scrape,
            "/metadata/{identifier}": self.metadata,
            "/download/{identifier}/{name:.+}": self.download,
            "/store/{identifier}/{name:.+}": self.store,
        }

    async def _heard(self, request: web.Request, path: str) -> None:
        self.requests[path] += 1
        self.times.append(asyncio.get_running_loop().time())
        if asyncio.get_running_loop().time() < self.down_until:
            await drop(self, request, b"")

    async def scrape(self, request: web.Request) -> web.StreamResponse:
        await self._heard(request, "scrape")
        misdeed = _next(self.about_search, for_ever=False)
        answer = await misdeed(self, request, b"{}") if misdeed else None
        if answer is not None:
            return answer
        phrases = re.findall(r'title:"([^"]*)"', request.query.get("q", ""))
        names = [name for name, one in self.items.items() if all(p in one.metadata.get("title", "") for p in phrases)]
        start, size = int(request.query.get("cursor", 0)), int(request.query.get("count", 100))
        page = {
            "items": [{"identifier": name} for name in names[start : start + size]],
            "total": len(names) + self.uncounted,
        }
        if start + size < len(names):
            page["cursor"] = str(start + size)
        return web.json_response(page)

    async def metadata(self, request: web.Request) -> web.StreamResponse:
        identifier = request.match_info["identifier"]
        await self._heard(request, f"metadata/{identifier}")
        item = self.items.get(identifier)
        if item is None:
            return web.json_response({})
        misdeed = _next(item.about_metadata, item.for_ever)
        answer = await misdeed(self, request, b"{}") if misdeed else None
        if answer is not None:
            return answer
        file = {
            "name": item.name or f"{identifier}_djvu.txt",
            "format": "DjVuTXT",
            "size": str(len(item.text)),
            "md5": hashlib.md5(item.text, usedforsecurity=False).hexdigest(),
            **item.file,
        }
        metadata = {"identifier": identifier, "title": "A book", "date": "1897", **item.metadata}
        return web.json_response({"metadata": metadata, "files": [{"name": "x.pdf", "format": "PDF"}, file]})

    async def download(self, request: web.Request) -> web.StreamResponse:
        identifier, name = request.match_info["identifier"], request.match_info["name"]
        await self._heard(request, f"download/{identifier}")
        raise web.HTTPFound(f"{self.abroad.get(identifier, '')}/store/{quote(identifier)}/{quote(name)}")

    async def store(self, request: web.Request) -> web.StreamResponse:
        identifier, name = request.match_info["identifier"], request.match_info["name"]
        item = self.items[identifier]
        assert name == (item.name or f"{identifier}_djvu.txt")
        misdeed = _next(item.about_file, item.for_ever)
        answer = await misdeed(self, request, item.text) if misdeed else None
        if answer is not None:
            return answer
        start = request.http_range.start or 0
        headers = {"Content-Range": f"bytes {start}-{len(item.text) - 1}/{len(item.text)}"} if start else {}
        return web.Response(status=206 if start else 200, body=item.text[start:], headers=headers)


def _next(misdeeds: list[Misdeed], for_ever: bool) -> Misdeed | None:
    if not misdeeds:
        return None
    return misdeeds[0] if for_ever and len(misdeeds) == 1 else misdeeds.pop(0)


def status(code: int, retry_after: float | None = None, *, as_date: bool = False) -> Misdeed:
    """Answer with a status, and maybe a Retry-After in seconds or as a date."""

    async def misdeed(archive: HostileArchive, request: web.Request, body: bytes) -> Answer:
        headers = {}
        if retry_after is not None:
            moment = datetime.now(UTC) + timedelta(seconds=retry_after)
            headers["Retry-After"] = format_datetime(moment, usegmt=True) if as_date else f"{retry_after:.0f}"
        return web.Response(status=code, headers=headers, text="later")

    return misdeed


async def drop(archive: HostileArchive, request: web.Request, body: bytes) -> Answer:
    """Hang up without a word."""
    assert request.transport is not None
    request.transport.close()
    return web.Response()


async def truncate(archive: HostileArchive, request: web.Request, body: bytes) -> Answer:
    """Promise everything, send half, hang up."""
    response = web.StreamResponse()
    response.content_length = len(body)
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    assert request.transport is not None
    request.transport.close()
    return response


async def corrupt(archive: HostileArchive, request: web.Request, body: bytes) -> Answer:
    """Send other bytes of the same size."""
    return web.Response(body=bytes(byte ^ 1 for byte in body))


async def hang(archive: HostileArchive, request: web.Request, body: bytes) -> Answer:
    """Say nothing for longer than anybody waits."""
    await asyncio.sleep(60)
    return web.Response()


async def page(archive: HostileArchive, request: web.Request, body: bytes) -> Answer:
    """Answer 200 with a web page."""
    return web.Response(text="<html>Please sign in", content_type="text/html")


@cache
def packed_blanks() -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    blanks = b" " * 2**20
    return b"".join([packer.compress(blanks) for _ in range(512)]) + packer.flush()


async def bomb(archive: HostileArchive, request: web.Request, body: bytes) -> Answer:
    """Send half a gigabyte of blanks in a few megabytes."""
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    return web.Response(body=packed_blanks(), headers=headers)


async def nonsense(archive: HostileArchive, request: web.Request, body: bytes) -> Answer:
    """Send half a JSON object."""
    return web.Response(text='{"metadata": {"ti', content_type="application/json")
