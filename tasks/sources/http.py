"""One polite HTTP client per archive host: paced, retrying, size-capped, and never redirected to strangers."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import aiohttp
import tenacity
from aiolimiter import AsyncLimiter
from yarl import URL

from storage.errors import ArchiveBusy, CorruptAnswer, ItemUnavailable, TransientError
from tasks.sources.answers import error_of, parse_json

PRODUCT = "empirical-distrust/0.1"
JSON_CAP_BYTES = 64 * 2**20
LONGEST_BACKOFF_SECONDS = 60.0
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})

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


class Clock:
    """The time and the waiting of a client, so that a test can hand in its own."""

    def time(self) -> float:
        """Return seconds from any fixed moment."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


def user_agent(contact: str) -> str:
    """Name this program and whom to write to, as archives ask."""
    contact = re.sub(r"[^\x21-\x7e]+|[()]", " ", contact).strip()
    return f"{PRODUCT} (+{contact})" if contact else f"{PRODUCT} (no contact given)"


def limiter_for(requests_per_second: float) -> AsyncLimiter:
    """Return a limiter that lets no burst pass: at most a tenth of a second's requests at once, at least one."""
    at_once = max(1.0, requests_per_second / 10)
    return AsyncLimiter(at_once, at_once / requests_per_second)


def is_loopback(url: str) -> bool:
    """Tell whether a root URL is on this machine, where no public archive needs protection."""
    return URL(url).host in LOOPBACK


def courteous_rate(wanted: float, ceiling: float | None, public_ceiling: float, base_url: str) -> float:
    """Return the requests a second to use: what is wanted, under the ceiling that holds for the archive.

    A ceiling that the catalogue gives always holds. Where it gives none, the public archive's own limit holds,
    unless the "archive" is a server on this machine.
    """
    if ceiling is None:
        return wanted if is_loopback(base_url) else min(wanted, public_ceiling)
    return min(wanted, ceiling)


class ArchiveClient:
    """Asks one archive; an answer is data or an error of the tree in `storage.errors`.

    Args:
        base_url: Root of the archive; redirects may lead to its host and that host's subdomains.
        requests_per_second: The pace over all requests of this client.
        contact: For the User-Agent.
        allowed_hosts: Further hosts that a redirect may lead to.
        concurrency: Connections at most.
        attempts: Tries per request; only transient errors are tried again.
        first_delay_seconds: The first backoff; it doubles, with jitter.
        longest_wait_seconds: An archive that asks for a longer pause gets it from the caller, who can let go of
            the process meanwhile: the error is raised at once, with the pause.
        busy_pause_seconds: The pause to assume for a 429 that names none.
        timeout_seconds: Limit for connecting and for each silence while reading.
        clock: Time and sleep.
    """

    def __init__(
        self,
        base_url: str,
        *,
        requests_per_second: float,
        contact: str = "",
        allowed_hosts: tuple[str, ...] = (),
        concurrency: int = 10,
        attempts: int = 5,
        first_delay_seconds: float = 1.0,
        longest_wait_seconds: float = 120.0,
        busy_pause_seconds: float | None = None,
        timeout_seconds: float = 90.0,
        clock: Clock | None = None,
    ) -> None:
        self.base = URL(base_url.rstrip("/"))
        self._hosts = (self.base.host or "", *allowed_hosts)
        self._limiter = limiter_for(requests_per_second)
        self._headers = {"User-Agent": user_agent(contact)}
        self._concurrency = concurrency
        self._attempts = attempts
        self._backoff = tenacity.wait_exponential_jitter(
            multiplier=first_delay_seconds, jitter=first_delay_seconds, max=LONGEST_BACKOFF_SECONDS
        )
        self._longest_wait = longest_wait_seconds
        self._busy_pause = busy_pause_seconds
        self._timeout = aiohttp.ClientTimeout(
            total=None, connect=timeout_seconds, sock_connect=timeout_seconds, sock_read=timeout_seconds
        )
        self._clock = clock or Clock()
        self._not_before = 0.0
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        # A proxy of the environment has no business between this process and a server on the same machine.
        self._session = aiohttp.ClientSession(
            headers=self._headers,
            timeout=self._timeout,
            connector=aiohttp.TCPConnector(limit=self._concurrency),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=not is_loopback(str(self.base)),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

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
            CorruptAnswer: The answer kept being no such object.
            ArchiveBlocked: A web page came in place of data.
            ItemUnavailable: There is no such thing, or it is not for us.
        """
        if params:
            url = url.update_query({key: str(value) for key, value in params.items()})

        async def ask() -> dict[str, Any]:
            body, headers = await self._ask(url, JSON_CAP_BYTES, wants_json=True)
            return parse_json(body, headers, str(url), expect)

        return await self._persist(ask, tally or Tally())

    async def get_bytes(
        self, url: URL, *, cap: int, size: int | None = None, md5: str | None = None, tally: Tally | None = None
    ) -> bytes:
        """Get a file whole; its size and MD5 are verified when given.

        Raises:
            ArchiveBusy: The archive kept asking to come back later.
            CorruptAnswer: Size or checksum kept being wrong.
            ItemUnavailable: There is no such file, it is not for us, or it exceeds `cap` bytes.
        """

        async def ask() -> bytes:
            body, _ = await self._ask(url, cap, wants_json=False)
            if size is not None and len(body) != size:
                raise CorruptAnswer(f"{url} gave {len(body)} bytes, the archive lists {size}")
            if md5 and (found := hashlib.md5(body, usedforsecurity=False).hexdigest()) != md5.lower():
                raise CorruptAnswer(f"{url} has MD5 {found}, the archive lists {md5}")
            return body

        return await self._persist(ask, tally or Tally())

    async def _persist(self, ask: Callable[[], Awaitable[Got]], tally: Tally) -> Got:
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(TransientError),
            stop=self._give_up,
            wait=self._delay,
            sleep=self._clock.sleep,
            reraise=True,
        )
        async for attempt in retrying:
            with attempt:
                tally.count(attempt.retry_state.attempt_number)
                return await ask()
        raise AssertionError("a retry loop ended without a result")  # pragma: no cover

    def _give_up(self, state: tenacity.RetryCallState) -> bool:
        return state.attempt_number >= self._attempts or _asked_pause(state) > self._longest_wait

    def _delay(self, state: tenacity.RetryCallState) -> float:
        # A pause that the archive asked for holds back the whole client, see _wait_turn; here only backoff.
        return 0.0 if _asked_pause(state) else self._backoff(state)

    async def _wait_turn(self, url: URL) -> None:
        left = self._not_before - self._clock.time()
        if left > self._longest_wait:
            raise ArchiveBusy(f"{url.host} asked for a pause of {left:.0f} s more", left)
        if left > 0:
            await self._clock.sleep(left)
        await self._limiter.acquire()

    async def _ask(self, url: URL, cap: int, *, wants_json: bool) -> tuple[bytes, Mapping[str, str]]:
        await self._wait_turn(url)
        try:
            async with self._follow(url, compressed=wants_json) as response:
                error = error_of(
                    response.status,
                    response.headers,
                    str(url),
                    wants_json=wants_json,
                    busy_pause_seconds=self._busy_pause,
                )
                if error is not None:
                    self._hold_back(error)
                    raise error
                return await _read(response, cap), response.headers
        except aiohttp.ClientPayloadError as error:
            raise CorruptAnswer(f"{url} broke off in the middle ({error})") from error
        except aiohttp.InvalidURL as error:
            raise ItemUnavailable("bad-url", f"{url!s} cannot be asked for") from error
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            raise ArchiveBusy(f"{url} could not be read ({type(error).__name__}: {error})") from error

    def _hold_back(self, error: Exception) -> None:
        if isinstance(error, ArchiveBusy) and error.retry_after_seconds:
            self._not_before = max(self._not_before, self._clock.time() + error.retry_after_seconds)

    @asynccontextmanager
    async def _follow(self, url: URL, *, compressed: bool) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._session is None:
            raise RuntimeError("the client is not open; use it as an async context manager")
        headers = {} if compressed else {"Accept-Encoding": "identity"}
        start = url
        for _ in range(_MAX_REDIRECTS + 1):
            async with self._session.get(url, headers=headers, allow_redirects=False) as response:
                location = response.headers.get("Location")
                if response.status not in _REDIRECTS or not location:
                    yield response
                    return
                url = self._next(url, location)
        raise ItemUnavailable("redirect-loop", f"{start} was redirected more than {_MAX_REDIRECTS} times")

    def _next(self, url: URL, location: str) -> URL:
        try:
            target = url.join(URL(location, encoded="%" in location))
        except ValueError as error:
            raise ItemUnavailable("foreign-redirect", f"{url} redirects to the unreadable {location!r}") from error
        host = target.host or ""
        known = any(host == allowed or host.endswith(f".{allowed}") for allowed in self._hosts)
        if not known or target.scheme not in ("http", "https") or (url.scheme, target.scheme) == ("https", "http"):
            raise ItemUnavailable("foreign-redirect", f"{url} redirects to {host or target!s}, which is not trusted")
        return target


def _asked_pause(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    return (error.retry_after_seconds or 0.0) if isinstance(error, ArchiveBusy) else 0.0


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
