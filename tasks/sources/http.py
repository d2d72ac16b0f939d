"""Asking an archive over HTTP: paced, retrying, size-capped, and never redirected to an unknown host."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import aiohttp
from yarl import URL

from storage.atomic import sync_file
from storage.errors import (
    ArchiveBlocked,
    ArchiveBusy,
    ArchiveUnreachable,
    CorruptAnswer,
    DistrustError,
    ItemUnavailable,
    TransientError,
)
from tasks.sources.answers import REFUSALS, blocked, check_object, error_of, is_html, parse_json, redirect_target
from tasks.sources.pace import Patience, Tally
from tasks.sources.partial import PartialFile
from tasks.sources.web import Web

JSON_CAP_BYTES = 64 * 2**20
BAN_AFTER = 3
"""If this many different pages are refused and none is answered, the client is shut out."""

_MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CHUNK_BYTES = 2**18
_PAGE_BYTES = 2**16
"""Bytes of a web page that are searched for the signs of a challenge."""

Got = TypeVar("Got")


class _Refused(Exception):
    """A web page came in place of data: this page is closed to everybody, or this client is shut out."""

    def __init__(self, own: DistrustError) -> None:
        super().__init__(str(own))
        self.own = own


class _InDoubt(ArchiveBusy):
    """A page was refused by a host that answered nothing else yet, so the reason is unknown."""

    def __init__(self, own: DistrustError) -> None:
        super().__init__(f"{own}; the archive has answered nothing else so far")
        self.own = own


class ArchiveClient:
    """Asks one service of an archive; an answer is data or an error of `storage.errors`.

    Redirects may lead to the host of `base_url`, its subdomains, and `allowed_hosts`. Each service of a host has a pace
    of its own. The archive is known to shut out a client that was too fast for `block_seconds`.
    """

    def __init__(
        self,
        web: Web,
        base_url: str,
        *,
        requests_per_second: float,
        service: str = "",
        allowed_hosts: tuple[str, ...] = (),
        attempts: int = 5,
        first_delay_seconds: float = 1.0,
        block_seconds: float | None = None,
    ) -> None:
        self.base = URL(base_url.rstrip("/"))
        self.pace = web.pace_of(base_url, requests_per_second, service)
        self._web = web
        self._hosts = (self.base.host or "", *allowed_hosts)
        self._patience = Patience(self.pace, attempts, first_delay_seconds)
        self._block_seconds = block_seconds

    def url(self, *segments: str, keep_slashes: bool = False) -> URL:
        """Build a URL below the root; every segment is untrusted and quoted."""
        path = "/".join(quote(segment, safe="/" if keep_slashes else "") for segment in segments)
        return URL(f"{self.base}/{path}", encoded=True)

    async def get_json(
        self,
        url: URL,
        params: Mapping[str, str | int] | None = None,
        *,
        expect: tuple[str, ...] = (),
        tally: Tally | None = None,
    ) -> dict[str, Any]:
        """Get a JSON object that has the keys `expect`.

        Raises:
            ArchiveBusy: The archive kept asking to come back later.
            ArchiveBlocked: A web page came in place of data.
            CorruptAnswer: The answer was never such an object.
            ItemUnavailable: It does not exist, or access is restricted.
        """
        if params:
            url = url.update_query({key: str(value) for key, value in params.items()})

        async def ask() -> dict[str, Any]:
            body, headers = await self._ask(url, JSON_CAP_BYTES)
            return check_object(parse_json(body, headers, str(url)), str(url), expect)

        return await self._persist(ask, tally)

    async def get_body(
        self, url: URL, *, cap: int = JSON_CAP_BYTES, tally: Tally | None = None
    ) -> tuple[bytes, Mapping[str, str]]:
        """Get a body of any type but a web page, with its headers; raises as `get_json`."""
        return await self._persist(lambda: self._ask(url, cap), tally)

    async def save(
        self,
        url: URL,
        to: Path,
        *,
        cap: int,
        size: int | None = None,
        checksum: tuple[str, str] | None = None,
        tally: Tally | None = None,
    ) -> None:
        """Save a file whole; an attempt that breaks off leaves ``*.part``, which the next one continues.

        It may have `cap` bytes at most, and `size` and `checksum` are what the archive lists, if it does, the latter as
        an algorithm of `hashlib` and a hex digest. Without a checksum, each attempt starts over. `tally` counts the
        tries that made no headway.

        Raises:
            ArchiveBusy: The archive kept asking to come back later.
            CorruptAnswer: Size or checksum kept being wrong.
            ItemUnavailable: It does not exist, access is restricted, or it exceeds `cap` bytes.
        """
        part = PartialFile(to.with_name(f"{to.name}.part"), cap=cap, size=size, checksum=checksum)

        async def ask() -> None:
            if not part.is_complete:
                await self._turn(lambda: self._append(url, part), url)
            await asyncio.to_thread(part.verify, str(url))
            # A file under its final name is not checked again.
            await asyncio.to_thread(sync_file, part.path)
            os.replace(part.path, to)

        await self._persist(ask, tally, headway=lambda: part.kept)

    async def _append(self, url: URL, part: PartialFile) -> None:
        async with self._follow(url, {"Accept-Encoding": "identity", **part.request_headers()}) as response:
            if response.status == 416:
                past = part.kept
                part.discard()
                raise CorruptAnswer(f"{url} has no bytes past {past}; starting over")
            part.accept(response.status, response.headers)
            if response.status != 206:
                await self._check(response, url, wants_data=False)
            with part.open() as file:
                async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
                    file.write(chunk)
                    part.check_cap(file.tell(), str(url))

    async def _persist(
        self, ask: Callable[[], Awaitable[Got]], tally: Tally | None, headway: Callable[[], int] = lambda: 0
    ) -> Got:
        try:
            return await self._patience.persist(ask, tally, headway)
        except _InDoubt as doubt:
            raise doubt.own from doubt

    async def _ask(self, url: URL, cap: int) -> tuple[bytes, Mapping[str, str]]:
        async def get() -> tuple[bytes, Mapping[str, str]]:
            async with self._follow(url, {}) as response:
                await self._check(response, url, wants_data=True)
                body = await _read(response, cap)
            self.pace.known_good = url
            return body, response.headers

        return await self._turn(get, url)

    async def _check(self, response: aiohttp.ClientResponse, url: URL, *, wants_data: bool) -> None:
        """Raise what the status and the headers stand for; a web page is looked into."""
        may_be_shut = response.status in REFUSALS and (response.status != 200 or wants_data)
        doubtful = may_be_shut and is_html(response.headers)
        page = await response.content.read(_PAGE_BYTES) if doubtful else b""
        error = error_of(
            response.status, response.headers, str(url), page, wants_json=wants_data, block_seconds=self._block_seconds
        )
        if error is not None:
            raise _Refused(error) if doubtful and not isinstance(error, ArchiveBlocked) else error

    async def _turn(self, request: Callable[[], Awaitable[Got]], url: URL) -> Got:
        """Wait until the host may be asked; while it is down, make sure first that it is back."""
        await self.pace.turn()
        if self.pace.is_down and self.pace.known_good is not None:
            async with self.pace.probing:
                if self.pace.is_down:
                    trouble = await self._probe(self.pace.known_good)
                    self.pace.note(trouble)
                    if trouble is not None:
                        raise trouble
                    await self.pace.turn()
        blocks = self.pace.blocks
        try:
            got = await self._send(request, url)
        except DistrustError as error:
            self.pace.note(error)
            raise
        except _Refused as refusal:
            async with self.pace.probing:
                verdict = await self._judge(refusal.own, url, blocks)
                self.pace.note(verdict)
            raise verdict from refusal
        self.pace.note(None)
        return got

    async def _probe(self, known: URL) -> DistrustError | None:
        """Ask for what was answered before; return what keeps the host from answering, none if it answers."""

        async def get() -> None:
            async with self._follow(known, {}) as response:
                await self._check(response, known, wants_data=True)
                await _read(response, JSON_CAP_BYTES)

        try:
            await self._send(get, known)
        except _Refused:
            return blocked(str(known), self._block_seconds)
        except TransientError as error:
            return error
        except ItemUnavailable:
            pass  # the host answers, and that was the question
        return None

    async def _judge(self, own: DistrustError, url: URL, blocks: int) -> DistrustError:
        """Return what a refused page stands for: itself, or a client that is shut out and is refused others too."""
        pace = self.pace
        if pace.blocks > blocks or pace.pause_left:
            return ArchiveBusy(f"{own}; the archive refused every request at that time", pace.pause_left or None)
        if pace.known_good is not None and pace.known_good != url:
            await pace.turn()
            return await self._probe(pace.known_good) or own
        pace.refused.add(url)
        return blocked(str(url), self._block_seconds) if len(pace.refused) >= BAN_AFTER else _InDoubt(own)

    async def _send(self, request: Callable[[], Awaitable[Got]], url: URL) -> Got:
        """Send a request and say what its failure means."""
        try:
            return await request()
        except aiohttp.ClientPayloadError as error:
            raise CorruptAnswer(f"{url} broke off in the middle ({error})") from error
        except aiohttp.InvalidURL as error:
            raise ItemUnavailable("bad-url", f"{url!s} cannot be requested") from error
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            raise ArchiveUnreachable(f"{url} could not be read ({type(error).__name__}: {error})") from error

    @asynccontextmanager
    async def _follow(self, url: URL, headers: Mapping[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        start = url
        for _ in range(_MAX_REDIRECTS + 1):
            async with self._web.session_to(url).get(url, headers=headers, allow_redirects=False) as response:
                location = response.headers.get("Location")
                if response.status not in _REDIRECTS or not location:
                    yield response
                    return
                url = redirect_target(url, location, self._hosts)
        raise ItemUnavailable("redirect-loop", f"{start} was redirected more than {_MAX_REDIRECTS} times")


async def _read(response: aiohttp.ClientResponse, cap: int) -> bytes:
    too_large = ItemUnavailable("too-large", f"{response.url} exceeds the cap of {cap} bytes")
    if (response.content_length or 0) > cap:
        raise too_large
    body = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
        body += chunk
        if len(body) > cap:
            raise too_large
    return bytes(body)
