"""When a host may be asked: its pace, the pauses that it asks for, and the wait while it is down."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from aiolimiter import AsyncLimiter

from storage.errors import ArchiveAway, ArchiveBusy, TransientError

LONGEST_FIRST_WAIT_SECONDS = 120.0
"""How long a host may keep us waiting that has never answered; a wrong address would be waited for in vain."""
DOWN_AFTER = 5
"""So many failures in a row, over all requests, mean that the host is down and not one of its items."""
FIRST_PARK_SECONDS, LONGEST_PARK_SECONDS = 5.0, 300.0
RECENT = 20
"""How many answers tell whether a host is overloaded."""
OVERLOADED = 5
"""So many of them saying "later" halve the pace; a fault now and then does not."""
SLOWEST = 32


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


class HostPace:
    """The turns of all requests of this process to one host, whatever source they are for.

    Three things hold a request back. The *pace*: a limiter, made slower while the host is overloaded (every
    request then takes twice, four times, ... as many permits) and quicker again, step by step, while it answers
    well. A *pause* that the host asked for. And the *circuit breaker*: a host that answered before and now fails
    again and again is parked, for longer each time, until it answers or patience ends; other hosts go on.

    Args:
        host: Its name, for messages.
        requests_per_second: Most requests a second.
        patience_seconds: How long a host that has answered before is waited for.
        notify: Called with a sentence for a person when the host is parked and when it answers again.
        clock: Time and sleep.
    """

    def __init__(
        self,
        host: str,
        requests_per_second: float,
        *,
        patience_seconds: float,
        notify: Callable[[str], None],
        clock: Clock,
    ) -> None:
        self.host = host
        self.answers = 0
        """How many requests were answered well."""
        self._rate = requests_per_second
        self._limiter = limiter_for(requests_per_second)
        self._patience = patience_seconds
        self._notify = notify
        self._clock = clock
        self._slowness = 1
        self._recent: deque[bool] = deque(maxlen=RECENT)
        self._shut_until = 0.0
        self._failures = 0
        self._parked = 0
        self._silent_since: float | None = None
        self._why = ""
        self._told = False

    @property
    def is_down(self) -> bool:
        """Tell whether the circuit is open: the host is waited for, and a failure says nothing about one item."""
        return self._parked > 0

    @property
    def slowness(self) -> int:
        """By how much the pace is divided now."""
        return self._slowness

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
            for _ in range(self._slowness):
                await self._limiter.acquire()
            if self._shut_until <= self._clock.time():  # it may have been shut while this request waited in line
                return

    async def _wait_while_shut(self) -> None:
        while (left := self._shut_until - self._clock.time()) > 0:
            waited = 0.0 if self._silent_since is None else self._clock.time() - self._silent_since
            allowed = self._patience if self.answers else min(self._patience, LONGEST_FIRST_WAIT_SECONDS)
            if waited + left > allowed:
                raise ArchiveAway(
                    f"{self.host} keeps us waiting for {left:.0f} s more, after {waited:.0f} s; patience ends after "
                    f"{allowed:.0f} s: {self._why}. Run again later",
                    left,
                )
            await self._clock.sleep(left)

    def hear(self, error: Exception | None) -> None:
        """Note what came of a request: none or an error that is no transient one means that the host is well."""
        if not isinstance(error, TransientError):
            self._well()
        elif isinstance(error, ArchiveBusy):
            self._busy(error)

    def _well(self) -> None:
        if self._told:
            self._notify(f"{self.host} answers again")
            self._told = False
        self.answers += 1
        self._failures, self._parked, self._silent_since = 0, 0, None
        self._recent.append(False)
        if self._slowness > 1 and len(self._recent) == RECENT and not any(self._recent):
            self._slowness //= 2
            self._recent.clear()

    def _busy(self, error: ArchiveBusy) -> None:
        now = self._clock.time()
        self._silent_since = now if self._silent_since is None else self._silent_since
        self._failures += 1
        self._recent.append(True)
        down = self.answers > 0 and self._failures >= DOWN_AFTER
        if error.overloaded or (sum(self._recent) >= OVERLOADED and not down):
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
        if self._slowness < SLOWEST:
            self._slowness *= 2

    def _shut(self, until: float, why: str) -> None:
        if until <= self._shut_until:
            return
        self._shut_until, self._why = until, why
        if (seconds := until - self._clock.time()) >= FIRST_PARK_SECONDS:
            self._told = True
            self._notify(f"{self.host} is parked for {seconds:.0f} s ({why}); other archives go on")
