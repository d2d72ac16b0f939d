"""A training run for a person who watches: a line for logs, a bar for terminals."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO

from tqdm import tqdm


def clock(seconds: float) -> str:
    """Write a duration as people read it on a clock."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute:02d}:{second:02d}"


def describe_numbers(event: Mapping[str, Any]) -> str:
    """Write the numbers of a ``progress`` event as the guide prints them."""
    return (
        f"loss={event['total']:.4f}, ce={event['ce']:.4f}, distrust={event['distrust']:.4f}, "
        f"tok/s={event['tokens_per_second']:.1f}, mem={event['peak_memory_gb']:.1f}GB"
    )


def describe_step(event: Mapping[str, Any]) -> str:
    """Write a ``progress`` event as a line."""
    return f"step {event['step']}/{event['max_steps']}: {describe_numbers(event)}, {clock(event['seconds_left'])} left"


class TrainingBar:
    """A bar with the guide's numbers; it appears with the first report."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bar: tqdm[Any] | None = None

    def show(self, event: Mapping[str, Any]) -> None:
        """Bring the bar up to a ``progress`` event."""
        if self._bar is None:
            self._bar = tqdm(
                total=event["max_steps"],
                initial=event["step"],
                desc="Training",
                file=self._stream,
                dynamic_ncols=True,
                mininterval=0,
            )
        self._bar.set_postfix_str(describe_numbers(event), refresh=False)
        self._bar.update(event["step"] - self._bar.n)
        self._bar.refresh()

    def give_way(self) -> None:
        """Take the bar off its line, so that a line of the log can stand there; the next report draws it below."""
        if self._bar is not None:
            self._bar.clear()

    def close(self) -> None:
        """Leave the bar as it is, on a line of its own."""
        if self._bar is not None:
            self._bar.close()


@contextmanager
def training_bar(stream: TextIO | None = None) -> Iterator[TrainingBar | None]:
    """Yield a bar on a terminal; none where nobody watches, as in a worker's log."""
    shown = stream or sys.stderr
    if not shown.isatty():
        yield None
        return
    bar = TrainingBar(shown)
    try:
        yield bar
    finally:
        bar.close()
