"""Asking an archive over HTTP: paced, retrying, size-capped, and never redirected to strangers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import aiohttp
import tenacity
from yarl import URL

from storage.atomic import sync_file
from storage.errors import ArchiveAway, ArchiveBusy, CorruptAnswer, DistrustError, ItemUnavailable, TransientError
from tasks.sources.answers import check_object, error_of, parse_json, redirect_target
from tasks.sources.partial import PartialFile
from tasks.sources.web import Web

JSON_CAP_BYTES = 64 * 2**20
LONGEST_BACKOFF_SECONDS = 60.0
HEADWAY_BYTES = 2**16
"""A try that brought at least so many bytes of a file was not in vain and is not counted."""

_MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CHUNK_BYTES = 2**18

Got = TypeVar("Got")


@dataclass
class Tally:
    """How often one item was asked for: the most tries that any of its requests took."""

    attempts: int = 0

    def count(self, attempt: int) -> None:
        """Note that a request is at its `attempt`-th try."""
        self.attempts = max(self.attempts, attempt)


class ArchiveClient:
    """Asks one archive; an answer is data or an error of the tree in `storage.errors`.

    Args:
        web: Session and paces.
        base_url: Root of the archive; redirects may lead to its host and that host's subdomains.
        requests_per_second: The pace of the host.
        service: Which of the host's services, where each has a limit of its own.
        allowed_hosts: Further hosts that a redirect may lead to.
        attempts: Tries per request; only transient errors are tried again, and tries while the host is down for
            everybody are not counted.
        first_delay_seconds: The first backoff; it doubles, with jitter.
        block_seconds: How long the archive is known to shut out a client that was too fast.
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
        self._attempts = attempts
        self._backoff = tenacity.wait_exponential_jitter(
            multiplier=first_delay_seconds, jitter=first_delay_seconds, max=LONGEST_BACKOFF_SECONDS
        )
        self._block_seconds = block_seconds
        self._known_good: URL | None = None
        self._probing = asyncio.Lock()

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
            CorruptAnswer: The answer kept being no such object.
            ItemUnavailable: There is no such thing, or it is not for us.
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

        Args:
            url: The file.
            to: Where it appears once size and checksum are verified.
            cap: Most bytes.
            size: Its size, where the archive lists it.
            checksum: Algorithm of `hashlib` and hex digest, where the archive lists one. Without one, nothing
                could tell a wrong continuation, so each attempt starts over.
            tally: Counts the tries that made no headway.

        Raises:
            ArchiveBusy: The archive kept asking to come back later.
            CorruptAnswer: Size or checksum kept being wrong.
            ItemUnavailable: There is no such file, it is not for us, or it exceeds `cap` bytes.
        """
        part = PartialFile(to.with_name(f"{to.name}.part"), cap=cap, size=size, checksum=checksum)

        async def ask() -> None:
            if not part.is_complete:
                await self._turn(lambda: self._append(url, part), url)
            await asyncio.to_thread(part.verify, str(url))
            # Whoever finds the file under its name does not check it again.
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
                self._check(response, url, wants_data=False)
            with part.open() as file:
                async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
                    file.write(chunk)
                    part.check_cap(file.tell(), str(url))

    async def _persist(
        self, ask: Callable[[], Awaitable[Got]], tally: Tally | None, headway: Callable[[], int] = lambda: 0
    ) -> Got:
        tally = tally or Tally()
        tries, reached, answers = 0, headway(), self.pace.answers

        def host_is_down(state: tenacity.RetryCallState) -> bool:
            # An answer that is corrupt came from a host that answers: it counts, or it would be asked for without end.
            return self.pace.is_down and isinstance(_error_in(state), ArchiveBusy)

        def give_up(state: tenacity.RetryCallState) -> bool:
            nonlocal tries, reached, answers
            host_wide = host_is_down(state) or (_asked_pause(state) and 0 < self.pace.answers == answers)
            if host_wide:
                return False  # it says nothing about this request; `HostPace.turn` knows when patience ends
            if (now := headway()) >= reached + HEADWAY_BYTES:
                tries, reached = 0, now
            tries, answers = tries + 1, self.pace.answers
            return tries >= self._attempts

        def delay(state: tenacity.RetryCallState) -> float:
            # A pause that the archive asked for holds back all requests to it, in `HostPace.turn`.
            return 0.0 if host_is_down(state) or _asked_pause(state) else self._backoff(state)

        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(_may_pass),
            stop=give_up,
            wait=delay,
            sleep=self._web.clock.sleep,
            reraise=True,
        )
        async for attempt in retrying:
            tally.count(tries + 1)
            with attempt:
                return await ask()
        raise AssertionError("a retry loop ended without a result")  # pragma: no cover

    async def _ask(self, url: URL, cap: int) -> tuple[bytes, Mapping[str, str]]:
        async def get() -> tuple[bytes, Mapping[str, str]]:
            async with self._follow(url, {}) as response:
                self._check(response, url, wants_data=True)
                body = await _read(response, cap)
            self._known_good = url
            return body, response.headers

        return await self._turn(get, url)

    def _check(self, response: aiohttp.ClientResponse, url: URL, *, wants_data: bool) -> None:
        error = error_of(
            response.status, response.headers, str(url), wants_json=wants_data, block_seconds=self._block_seconds
        )
        if error is not None:
            raise error

    async def _turn(self, request: Callable[[], Awaitable[Got]], url: URL) -> Got:
        """Wait until the host may be asked; while it is down, make sure first that it is back."""
        await self.pace.turn()
        if self.pace.is_down and self._known_good is not None:
            known = self._known_good
            async with self._probing:
                if self.pace.is_down:
                    with suppress(ItemUnavailable):  # the host answers, and that was the question
                        await self._heard(lambda: self._probe(known), known)
                    await self.pace.turn()
        return await self._heard(request, url)

    async def _probe(self, url: URL) -> None:
        async with self._follow(url, {}) as response:
            self._check(response, url, wants_data=True)
            await _read(response, JSON_CAP_BYTES)

    async def _heard(self, request: Callable[[], Awaitable[Got]], url: URL) -> Got:
        """Send a request, say what its failure means, and tell the host's pace of it."""
        try:
            got = await request()
        except aiohttp.ClientPayloadError as error:
            raise CorruptAnswer(f"{url} broke off in the middle ({error})") from error
        except aiohttp.InvalidURL as error:
            raise ItemUnavailable("bad-url", f"{url!s} cannot be asked for") from error
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            busy = ArchiveBusy(f"{url} could not be read ({type(error).__name__}: {error})")
            self.pace.hear(busy)
            raise busy from error
        except DistrustError as error:
            self.pace.hear(error)
            raise
        self.pace.hear(None)
        return got

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


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, TransientError) and not isinstance(error, ArchiveAway)


def _error_in(state: tenacity.RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def _asked_pause(state: tenacity.RetryCallState) -> bool:
    error = _error_in(state)
    return isinstance(error, ArchiveBusy) and bool(error.retry_after_seconds)


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
