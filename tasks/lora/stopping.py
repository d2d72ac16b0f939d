"""A polite stop: the first signal asks the loop to save and leave, the second one ends the process as usual."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Context in which SIGTERM and SIGINT are noted instead of obeyed.

    Outside the main thread, where Python allows no signal handlers, nothing is noted.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._previous: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    @property
    def exit_status(self) -> int:
        """The status that a shell expects of a process ended by this signal; by SIGTERM if another one was asked."""
        return 128 + (self.signal or signal.SIGTERM)
