"""How one request is tried again: the only place where a question to an archive is repeated by itself."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from storage.errors import ArchiveAway, ArchiveBusy, ArchiveUnreachable, DistrustError, TransientError
from tasks.sources.pace import HostPace

LONGEST_BACKOFF_SECONDS = 60.0
HEADWAY_BYTES = 2**16
"""A try that brought at least so many bytes of a file was not in vain and is not counted."""

Got = TypeVar("Got")


@dataclass
class Tally:
    """How often one item was asked for: the most tries that any of its requests took."""

    attempts: int = 0

    def count(self, attempt: int) -> None:
        """Note that a request is at its `attempt`-th try."""
        self.attempts = max(self.attempts, attempt)


@dataclass(frozen=True)
class Patience:
    """Asks one host again while that may help.

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

        Args:
            ask: One try; it waits for the host's turn, and tells the pace what came of it.
            tally: Counts the tries.
            headway: How many bytes are there to go on from.

        Raises:
            ArchiveUnreachable: Nothing ever came from the host.
            TransientError: The last try's error.
        """
        tally = tally or Tally()
        tries, reached, answers = 0, headway(), self.pace.answers
        while True:
            tally.count(tries + 1)
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
        """Persist with work that knows nothing of turns: the requests of a library."""

        async def once() -> Got:
            await self.pace.turn()
            try:
                got = await work()
            except DistrustError as error:
                self.pace.hear(error)
                raise
            self.pace.hear(None)
            return got

        return await self.persist(once)

    def _is_host_wide(self, error: TransientError, answers: int) -> bool:
        # An answer that is corrupt came from a host that answers: it counts, or it would be asked for without end.
        asked_pause = isinstance(error, ArchiveBusy) and bool(error.retry_after_seconds)
        down = self.pace.is_down and isinstance(error, ArchiveBusy)
        return down or (asked_pause and 0 < self.pace.answers == answers)

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
