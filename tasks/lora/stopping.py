"""A polite stop: a signal asks the loop to save and leave.

Several SIGTERMs ask for one stop: a service that is ended signals each of its processes, and a flow that is ended by it
signals its trainer once more. Only a second Ctrl-C, which a person sends, ends the process at once, as SIGKILL does.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopAsked(Exception):
    """Work was left at a place where it can be taken up again, since the process was asked to stop."""


class StopRequest:
    """Context in which SIGTERM and the first SIGINT are noted instead of obeyed.

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
        for number in list(self._previous):
            self._restore(number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        if number == signal.SIGINT:
            self._restore(number)

    def _restore(self, number: int) -> None:
        signal.signal(number, self._previous.pop(number))

    @property
    def exit_status(self) -> int:
        """The status that a shell expects of a process ended by this signal; by SIGTERM if another one was asked."""
        return 128 + (self.signal or signal.SIGTERM)
