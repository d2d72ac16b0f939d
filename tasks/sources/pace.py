"""When a host may be asked, and asked again: its pace, its pauses, and the wait while it is down."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from aiolimiter import AsyncLimiter
from yarl import URL

from storage.errors import ArchiveAway, ArchiveBlocked, ArchiveBusy, ArchiveUnreachable, DistrustError, TransientError

DOWN_AFTER = 5
"""This many failures in a row, over all requests, mean that the host is down, not one of its items."""
FIRST_PARK_SECONDS, LONGEST_PARK_SECONDS = 5.0, 300.0
RECENT = 20
"""How many answers decide whether a host is overloaded."""
OVERLOADED = 5
"""This many answers that say "later" halve the pace; one now and then does not."""
SLOWEST = 32
RECOVERY_SECONDS = 15.0
"""After this long, or after `RECENT` mostly good answers, a halved pace doubles."""
LONGEST_BACKOFF_SECONDS = 60.0
HEADWAY_BYTES = 2**16
"""A try that brought at least this many bytes of a file is not counted."""

Got = TypeVar("Got")


class Clock:
    """The time and the waiting of a client; a test hands in its own."""

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
    """The turns of all requests of this process to one host.

    Three things hold a request back: the pace, a limiter that is slowed down while the host is overloaded; a pause
    that the host asked for; and parking. A host that answered before and now fails again and again is parked: it is
    asked after pauses that grow, until it answers or patience ends.
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
        self.host, self.clock = host, clock
        self.answers = 0
        """How many requests were answered well."""
        self.blocks = 0
        """How often the host shut out this client."""
        self.reached = False
        """Whether anything came from the host, even "later"."""
        self.known_good: URL | None = None
        """What the host answered last with data: asked for again, it tells whether the host is well."""
        self.refused: set[URL] = set()
        """Pages that were refused while nothing was answered yet."""
        self.parks = True
        """Whether failures in a row park the host; that needs a way to distinguish a dead item from a dead host."""
        self.probing = asyncio.Lock()
        self._share, self._notify, self._patience = share, notify, patience_seconds
        self._rate, self._limiter = requests_per_second, limiter_for(requests_per_second)
        self._slowness, self._slowed_at = 1, 0.0
        self._recent: deque[bool] = deque(maxlen=RECENT)
        self._shut_until, self._why = 0.0, ""
        self._failures = self._parked = 0
        self._silent_since: float | None = None
        self._announced = False

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
                    f"{self.host} asks for another {left:.0f} s of waiting, after {waited:.0f} s; the limit is "
                    f"{self._patience:.0f} s: {self._why}. Run again later",
                    left,
                )
            await self.clock.sleep(left)

    def note(self, error: Exception | None) -> None:
        """Note what came of a request: none or an error that is not transient means that the host is well."""
        self.reached = self.reached or not isinstance(error, ArchiveUnreachable)
        if not isinstance(error, TransientError):
            self._note_answer()
        elif isinstance(error, ArchiveBusy):
            self.blocks += isinstance(error, ArchiveBlocked)
            self._note_failure(error)

    def _note_answer(self) -> None:
        if self._announced:
            self._notify(f"{self.host} answers again")
            self._announced = False
        self.answers += 1
        self._failures, self._parked, self._silent_since = 0, 0, None
        self.refused.clear()
        self._recent.append(False)
        if len(self._recent) == RECENT and self.slowness > 1:
            self._slowed_at -= RECOVERY_SECONDS
            self._recent.clear()

    def _note_failure(self, error: ArchiveBusy) -> None:
        now = self.clock.time()
        self._silent_since = now if self._silent_since is None else self._silent_since
        self._failures += 1
        self._recent.append(True)
        down = self.parks and self.answers > 0 and self._failures >= DOWN_AFTER
        if sum(self._recent) >= OVERLOADED and not down:
            self._recent.clear()  # what the requests already under way will say is about the old pace
            self._slowness, self._slowed_at = min(SLOWEST, 2 * self.slowness), now
        pause = error.retry_after_seconds or 0.0
        if down and self._shut_until <= now:
            pause = pause or min(LONGEST_PARK_SECONDS, FIRST_PARK_SECONDS * 2**self._parked)
            self._parked += 1
        if now + pause > max(now, self._shut_until):
            self._shut_until, self._why = now + pause, str(error)
            if pause >= FIRST_PARK_SECONDS:
                self._announced = True
                self._notify(f"{self.host} is parked for {pause:.0f} s ({error}); other archives go on")


@dataclass
class Tally:
    """How often one item was asked for: the most tries that any of its requests took."""

    attempts: int = 0


@dataclass(frozen=True)
class Patience:
    """Asks one host again while that may help: the only place where a request is repeated automatically.

    Args:
        pace: The host's pace, which knows of its pauses and whether it is down.
        attempts: Tries per request; only transient errors are tried again, and tries while the host is down for
            everybody are not counted.
        first_delay_seconds: The first backoff; it doubles, with jitter.
    """

    pace: HostPace
    attempts: int = 5
    first_delay_seconds: float = 1.0

    async def persist(
        self, ask: Callable[[], Awaitable[Got]], tally: Tally | None = None, headway: Callable[[], int] = lambda: 0
    ) -> Got:
        """Ask until there is an answer, or until the tries are used up.

        One try waits for the host's turn, and notes in the pace what came of it; `headway` tells how many bytes the
        next one can go on from.

        Raises:
            ArchiveUnreachable: Nothing ever came from the host.
            TransientError: The last try's error.
        """
        tally = tally or Tally()
        tries, reached, answers = 0, headway(), self.pace.answers
        while True:
            tally.attempts = max(tally.attempts, tries + 1)
            try:
                return await ask()
            except ArchiveAway:
                raise
            except TransientError as error:
                if self._is_host_wide(error, answers):
                    continue  # it says nothing about this request; `HostPace.turn` knows when patience ends
                if (now := headway()) >= reached + HEADWAY_BYTES:
                    tries, reached = 0, now
                tries, answers = tries + 1, self.pace.answers
                if tries >= self.attempts or self.pace.is_unreachable:
                    raise self._final(error) from error
                await self.pace.clock.sleep(self._delay(error, tries))

    async def ask(self, work: Callable[[], Awaitable[Got]]) -> Got:
        """Persist with work that does not wait for turns: the requests of a library."""

        async def once() -> Got:
            await self.pace.turn()
            try:
                got = await work()
            except DistrustError as error:
                self.pace.note(error)
                raise
            self.pace.note(None)
            return got

        return await self.persist(once)

    def _is_host_wide(self, error: TransientError, answers: int) -> bool:
        # An answer that is corrupt came from a host that answers: it counts, or it would be asked for without end.
        if not isinstance(error, ArchiveBusy):
            return False
        return self.pace.is_down or (bool(error.retry_after_seconds) and 0 < self.pace.answers == answers)

    def _delay(self, error: TransientError, tries: int) -> float:
        busy = error if isinstance(error, ArchiveBusy) else None
        if busy and busy.retry_after_seconds:
            return 0.0  # the pause holds back all requests to the host, in `HostPace.turn`
        # A single fault mostly passes at once, and asking again costs a turn of the pace. "Too many" never does.
        if not (pauses := tries - 1 + bool(busy and busy.overloaded)):
            return 0.0
        jitter = random.random()  # noqa: S311
        return min(LONGEST_BACKOFF_SECONDS, self.first_delay_seconds * (2.0 ** (pauses - 1) + jitter))

    def _final(self, error: TransientError) -> TransientError:
        if not isinstance(error, ArchiveUnreachable):
            return error
        if self.pace.reached:
            return ArchiveBusy(str(error))
        return ArchiveUnreachable(f"{error}; check the network and the address")
