"""When a host may be asked: its pace, the pauses that it asks for, and the wait while it is down."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable

from aiolimiter import AsyncLimiter
from yarl import URL

from storage.errors import ArchiveAway, ArchiveBlocked, ArchiveBusy, ArchiveUnreachable, TransientError

DOWN_AFTER = 5
"""So many failures in a row, over all requests, mean that the host is down and not one of its items."""
FIRST_PARK_SECONDS, LONGEST_PARK_SECONDS = 5.0, 300.0
RECENT = 20
"""How many answers tell whether a host is overloaded."""
OVERLOADED = 5
"""So many of them saying "later" halve the pace; one now and then, whatever its status, does not."""
SLOWEST = 32
RECOVERY_SECONDS = 15.0
"""After so long, or after `RECENT` answers that were mostly good, a pace that was halved doubles."""


class Clock:
    """The time and the waiting of a client, so that a test can hand in its own."""

    def time(self) -> float:
        """Return seconds from any fixed moment."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


def limiter_for(requests_per_second: float) -> AsyncLimiter:
    """Return a limiter that lets no burst pass: at most a tenth of a second's requests at once, at least one."""
    at_once = max(1.0, requests_per_second / 10)
    return AsyncLimiter(at_once, at_once / requests_per_second)


async def alone(host: str) -> None:
    """Ask a host as if no other machine did."""


class HostPace:
    """The turns of all requests of this process to one host, whatever source they are for.

    Three things hold a request back. The *pace*: a limiter, made slower while the host is overloaded (every
    request then takes twice, four times, ... as many permits) and quicker again, step by step. A *pause* that the
    host asked for. And *parking*: a host that answered before and now fails again and again is asked again after
    pauses that grow, until it answers or patience ends; other hosts go on.

    Args:
        host: Its name, for messages.
        requests_per_second: Most requests a second.
        patience_seconds: How long the host is waited for.
        notify: Called with a sentence for a person when the host is parked and when it answers again.
        clock: Time and sleep.
        share: Waits for this machine's turn, where several ask the host.
    """

    def __init__(
        self,
        host: str,
        requests_per_second: float,
        *,
        patience_seconds: float,
        notify: Callable[[str], None],
        clock: Clock,
        share: Callable[[str], Awaitable[None]] = alone,
    ) -> None:
        self.host = host
        self._share = share
        self.clock = clock
        self.answers = 0
        """How many requests were answered well."""
        self.blocks = 0
        """How often the host shut out this client."""
        self.reached = False
        """Whether anything came from the host, be it "later"."""
        self.known_good: URL | None = None
        """What the host answered last with data: asked for again, it tells whether the host is well."""
        self.refused: set[URL] = set()
        """Pages that were refused while nothing was answered yet."""
        self.parks = True
        """Whether failures in a row park the host; then something must tell a dead item from a dead host."""
        self.probing = asyncio.Lock()
        self._rate = requests_per_second
        self._limiter = limiter_for(requests_per_second)
        self._patience = patience_seconds
        self._notify = notify
        self._slowness = 1
        self._slowed_at = 0.0
        self._recent: deque[bool] = deque(maxlen=RECENT)
        self._shut_until = 0.0
        self._failures = 0
        self._parked = 0
        self._silent_since: float | None = None
        self._why = ""
        self._told = False

    @property
    def is_down(self) -> bool:
        """Tell whether the host is parked: it is waited for, and a failure says nothing about one item."""
        return self._parked > 0

    @property
    def is_unreachable(self) -> bool:
        """Tell whether nothing ever came from the host, however often it was asked."""
        return not self.reached and self._failures >= DOWN_AFTER

    @property
    def pause_left(self) -> float:
        """How many seconds the host must not be asked for."""
        return max(0.0, self._shut_until - self.clock.time())

    @property
    def slowness(self) -> int:
        """By how much the pace is divided now."""
        steps = int((self.clock.time() - self._slowed_at) / RECOVERY_SECONDS)
        return max(1, self._slowness >> min(steps, SLOWEST))

    def limit_to(self, requests_per_second: float) -> None:
        """Change the pace; sources of one host take turns, and each may have its own ceiling."""
        if requests_per_second != self._rate:
            self._rate, self._limiter = requests_per_second, limiter_for(requests_per_second)

    async def turn(self) -> None:
        """Wait until the host may be asked.

        Raises:
            ArchiveAway: That would take longer than there is patience.
        """
        while True:
            await self._wait_while_shut()
            permits = 0
            while permits < self.slowness:  # which may fall meanwhile
                await self._limiter.acquire()
                permits += 1
            await self._share(self.host)
            if not self.pause_left:  # it may have been shut while this request waited in line
                return

    async def _wait_while_shut(self) -> None:
        while left := self.pause_left:
            waited = 0.0 if self._silent_since is None else self.clock.time() - self._silent_since
            if waited + left > self._patience:
                raise ArchiveAway(
                    f"{self.host} keeps us waiting for {left:.0f} s more, after {waited:.0f} s; patience ends after "
                    f"{self._patience:.0f} s: {self._why}. Run again later",
                    left,
                )
            await self.clock.sleep(left)

    def hear(self, error: Exception | None) -> None:
        """Note what came of a request: none or an error that is not transient means that the host is well."""
        self.reached = self.reached or not isinstance(error, ArchiveUnreachable)
        if not isinstance(error, TransientError):
            self._well()
        elif isinstance(error, ArchiveBusy):
            self.blocks += isinstance(error, ArchiveBlocked)
            self._busy(error)

    def _well(self) -> None:
        if self._told:
            self._notify(f"{self.host} answers again")
            self._told = False
        self.answers += 1
        self._failures, self._parked, self._silent_since = 0, 0, None
        self.refused.clear()
        self._recent.append(False)
        if len(self._recent) == RECENT and self.slowness > 1:
            self._slowed_at -= RECOVERY_SECONDS
            self._recent.clear()

    def _busy(self, error: ArchiveBusy) -> None:
        now = self.clock.time()
        self._silent_since = now if self._silent_since is None else self._silent_since
        self._failures += 1
        self._recent.append(True)
        down = self.parks and self.answers > 0 and self._failures >= DOWN_AFTER
        if sum(self._recent) >= OVERLOADED and not down:
            self._slow_down()
        pause = error.retry_after_seconds or 0.0
        if down and self._shut_until <= now:
            pause = pause or min(LONGEST_PARK_SECONDS, FIRST_PARK_SECONDS * 2**self._parked)
            self._parked += 1
        if pause:
            self._shut(now + pause, str(error))

    def _slow_down(self) -> None:
        # What the requests already under way will say is about the old pace.
        self._recent.clear()
        self._slowness, self._slowed_at = min(SLOWEST, 2 * self.slowness), self.clock.time()

    def _shut(self, until: float, why: str) -> None:
        if until <= self._shut_until:
            return
        self._shut_until, self._why = until, why
        if (seconds := until - self.clock.time()) >= FIRST_PARK_SECONDS:
            self._told = True
            self._notify(f"{self.host} is parked for {seconds:.0f} s ({why}); other archives go on")
