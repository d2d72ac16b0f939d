"""How far the download of a source is: documents, speed, what is left, and what was rejected."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from tasks.sources.source import Document, Reject


class Throughput:
    """Counts the outcomes of one source as they come in; `wanted` documents are asked for.

    After each change `show` is called with the fraction done (0..1) and one line for a person.
    """

    def __init__(
        self,
        wanted: int,
        show: Callable[[float, str], None] = lambda fraction, line: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.wanted = wanted
        self.documents = 0
        self.rejects: Counter[str] = Counter()
        self._show, self._clock, self._began = show, clock, clock()
        self._fetched = self._fetched_bytes = 0

    @contextmanager
    def attempt(self) -> Iterator[Callable[[Document | Reject], None]]:
        """Count the outcomes of one try; those of a try that fails are taken back, since the next brings them again."""
        documents, rejects = 0, Counter[str]()

        def note(outcome: Document | Reject) -> None:
            nonlocal documents
            if isinstance(outcome, Reject):
                rejects[outcome.reason] += 1
                self.rejects[outcome.reason] += 1
            else:
                documents += 1
                self.documents += 1
                self._fetched += 1
                self._fetched_bytes += len(outcome.text.encode())
            self._show(self.fraction, self.describe())

        try:
            yield note
        except BaseException:
            self.documents -= documents
            self.rejects -= rejects
            raise

    def note_kept(self, documents: int, rejects: Mapping[str, int]) -> None:
        """Count what an earlier run fetched; it says nothing about the speed of this one."""
        self.documents += documents
        self.rejects.update(rejects)
        self._show(self.fraction, self.describe())

    @property
    def fraction(self) -> float:
        """How much of what is wanted is fetched, 0..1."""
        return min(1.0, self.documents / self.wanted) if self.wanted else 1.0

    def describe(self) -> str:
        """Say it in one line."""
        parts = [f"{self.documents:,} of {self.wanted:,} documents"]
        seconds = self._clock() - self._began
        if self._fetched and seconds > 0:
            parts.append(f"{self._fetched_bytes / 1e6 / seconds:.2f} MB/s")
            left = max(0, self.wanted - self.documents) * seconds / self._fetched
            if left:
                parts.append(f"about {duration(left)} left")
        if self.rejects:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.rejects.most_common())
            parts.append(f"rejected: {reasons}")
        return "; ".join(parts)


def duration(seconds: float) -> str:
    """Write a time span with its two largest units: ``45 s``, ``3 min``, ``2 h 5 min``, ``3 d 4 h``."""
    minutes, hours, days = seconds / 60, seconds / 3600, seconds / 86400
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 90:
        return f"{minutes:.0f} min"
    if hours < 36:
        return f"{int(hours)} h {int(minutes) % 60} min"
    return f"{int(days)} d {int(hours) % 24} h"
