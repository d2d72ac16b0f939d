"""What all archives of a process share: the HTTP session, and one pace for each host."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

import aiohttp
from yarl import URL

from storage.addresses import LOOPBACK
from tasks.sources.pace import Clock, HostPace, alone

PRODUCT = "empirical-distrust/0.1"
LONGEST_ASK_SECONDS = 1800.0
"""No single request takes longer, however slowly its bytes trickle in."""
SILENCE_SECONDS = 90.0
PATIENCE_SECONDS = 48 * 3600.0


def user_agent(contact: str) -> str:
    """Name this program and whom to write to, as archives ask."""
    contact = re.sub(r"[^\x21-\x7e]+|[()]", " ", contact).strip()
    return f"{PRODUCT} (+{contact})" if contact else f"{PRODUCT} (no contact given)"


def is_loopback(url: str) -> bool:
    """Tell whether a root URL is on this machine, where no public archive needs protection."""
    return URL(url).host in LOOPBACK


def courteous_rate(
    wanted: float, ceiling: float | None, public_ceiling: float, base_url: str, own_ceiling: float | None = None
) -> float:
    """Return the requests a second to use: what is wanted, under every ceiling that holds for the archive.

    A ceiling that the catalogue or the user's connection gives always holds. Where the catalogue gives none, the
    public archive's own limit holds, unless the "archive" is a server on this machine.
    """
    wanted = min(wanted, own_ceiling or wanted)
    if ceiling is None:
        return wanted if is_loopback(base_url) else min(wanted, public_ceiling)
    return min(wanted, ceiling)


class Web:
    """The HTTP session of a process and the pace of every host.

    Args:
        contact: For the User-Agent.
        patience_seconds: How long a host that has answered before is waited for when it is down or wants a pause.
        silence_seconds: Limit for connecting and for each silence while reading.
        notify: Called with a sentence for a person when a host is parked and when it answers again.
        clock: Time and sleep.
        share: Waits for this machine's turn at a host, where several machines ask it.
    """

    def __init__(
        self,
        contact: str = "",
        *,
        patience_seconds: float = PATIENCE_SECONDS,
        silence_seconds: float = SILENCE_SECONDS,
        notify: Callable[[str], None] = lambda sentence: None,
        clock: Clock | None = None,
        share: Callable[[str], Awaitable[None]] = alone,
    ) -> None:
        self.clock = clock or Clock()
        self._share = share
        self._headers = {"User-Agent": user_agent(contact)}
        self._patience = patience_seconds
        self._notify = notify
        self._timeout = aiohttp.ClientTimeout(
            total=LONGEST_ASK_SECONDS,
            connect=silence_seconds,
            sock_connect=silence_seconds,
            sock_read=silence_seconds,
        )
        self._paces: dict[tuple[str, str], HostPace] = {}
        self._stack = AsyncExitStack()
        self._abroad: aiohttp.ClientSession | None = None
        self._at_home: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        # A proxy of the environment has no business between this process and a server on the same machine.
        self._abroad = await self._stack.enter_async_context(self._new_session(through_proxy=True))
        self._at_home = await self._stack.enter_async_context(self._new_session(through_proxy=False))
        return self

    def _new_session(self, *, through_proxy: bool) -> aiohttp.ClientSession:
        # How many requests are under way is for each source to say, and for its pace to allow.
        session = aiohttp.ClientSession(
            headers=self._headers,
            timeout=self._timeout,
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=through_proxy,
        )
        # A kept connection that the host closed would be asked again behind the pace's back; there is no public
        # switch for that, but the library's own test client turns the same one.
        session._retry_connection = False
        return session

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()
        self._abroad = self._at_home = None

    def pace_of(self, root: str, requests_per_second: float, service: str = "") -> HostPace:
        """Return the pace of a host, at the given rate; a host may have several services with limits of their own."""
        host = URL(root).authority
        key = (host, service)
        if key not in self._paces:
            self._paces[key] = HostPace(
                host,
                requests_per_second,
                patience_seconds=self._patience,
                notify=self._notify,
                clock=self.clock,
                share=self._share,
            )
        self._paces[key].limit_to(requests_per_second)
        return self._paces[key]

    def session_to(self, url: URL) -> aiohttp.ClientSession:
        """Return the session for a URL; there is one while the context is open."""
        session = self._at_home if url.host in LOOPBACK else self._abroad
        if session is None:
            raise RuntimeError("the web is not open; use it as an async context manager")
        return session
