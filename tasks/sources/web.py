"""The HTTP sessions of a process, and one pace for each host that it asks."""

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
    """Name this program and a contact, as archives ask."""
    contact = re.sub(r"[^\x21-\x7e]+|[()]", " ", contact).strip()
    return f"{PRODUCT} (+{contact})" if contact else f"{PRODUCT} (no contact given)"


class Web:
    """The HTTP sessions of a process and the pace of every host.

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
        self._proxied: aiohttp.ClientSession | None = None
        self._direct: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        # A proxy of the environment does not belong between this process and a server on the same machine.
        self._proxied = await self._stack.enter_async_context(self._new_session(through_proxy=True))
        self._direct = await self._stack.enter_async_context(self._new_session(through_proxy=False))
        return self

    def _new_session(self, *, through_proxy: bool) -> aiohttp.ClientSession:
        # Each source limits how many requests are under way.
        session = aiohttp.ClientSession(
            headers=self._headers,
            timeout=self._timeout,
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=through_proxy,
        )
        # aiohttp repeats a request on a kept connection that the host closed, without waiting for the pace. There is no
        # public option against that; the library's own test client sets the same attribute.
        session._retry_connection = False
        return session

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()
        self._proxied = self._direct = None

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
        """Return the session for a URL; there is one only while the context is open."""
        session = self._direct if url.host in LOOPBACK else self._proxied
        if session is None:
            raise RuntimeError("the web is not open; use it as an async context manager")
        return session
