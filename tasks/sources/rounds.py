"""When sources that could not be read for now are run again."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 30.0, 3600.0


@dataclass
class Rounds:
    """When sources that could not be read for now come round again: after longer pauses, while nothing comes of it.

    Args:
        folders: Where the sources lie; another file there is headway, and patience begins anew.
        patience_seconds: How long to go on without headway.
    """

    folders: Sequence[Path]
    patience_seconds: float

    def __post_init__(self) -> None:
        self._files, self._since, self._wait = self._count(), time.monotonic(), FIRST_WAIT_SECONDS

    def _count(self) -> int:
        return sum(1 for folder in self.folders for _ in folder.glob("*.parquet"))

    def next_wait(self) -> float | None:
        """Return the seconds to wait before the next round; none if patience is over."""
        if (files := self._count()) > self._files:
            self._files, self._since, self._wait = files, time.monotonic(), FIRST_WAIT_SECONDS
        wait, self._wait = self._wait, min(LONGEST_WAIT_SECONDS, 2 * self._wait)
        return wait if time.monotonic() + wait - self._since <= self.patience_seconds else None
