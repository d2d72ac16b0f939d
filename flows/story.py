"""What a person at the command line sees while the pipeline runs: one line for each stage.

The line of the stage at work is rewritten in place on a terminal. What each stage did in full is in the log of its run,
and in a file beside the recipe.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TextIO

from flows.terminal import DETAILS
from tasks.policies import Progress, run_logger

STAGES = {
    "download": ("Downloading", "Downloaded"),
    "score": ("Scoring", "Scored"),
    "rebalance": ("Balancing", "Balanced"),
    "train": ("Training", "Trained"),
    "evaluate": ("Evaluating", "Evaluated"),
    "export": ("Exporting", "Exported"),
}
REDRAW_SECONDS = 0.2
MOST_NOTES = 24
CLEAR = "\r\x1b[K"
UNEVEN = "Note: the corpus cannot keep the shares"
COST = (
    "the model learns these texts, but less about which sources to trust; sources of the missing bands teach that: "
    "python -m flows download-corpus --list"
)
OWN_LOGS = ("prefect.flow_runs", "prefect.task_runs", "distrust")


@dataclass
class Screen:
    """The stream that a person reads, and the line on it that is still being rewritten."""

    stream: TextIO
    _line: str = ""
    _drawn: float = 0.0

    @property
    def rewrites(self) -> bool:
        """Whether a line can be rewritten in place."""
        return self.stream.isatty() and os.environ.get("TERM") != "dumb"

    def say(self, text: str) -> None:
        """Print lines that stay."""
        self.wipe()
        print(text, file=self.stream, flush=True)

    def show(self, text: str) -> None:
        """Draw the line that is rewritten."""
        if self.rewrites and time.monotonic() - self._drawn >= REDRAW_SECONDS:
            self._drawn = time.monotonic()
            self._line = " ".join(text.split())[: shutil.get_terminal_size().columns - 1]
            self.stream.write(CLEAR + self._line)
            self.stream.flush()

    def wipe(self) -> None:
        """Make room for other lines."""
        if self._line:
            self.stream.write(CLEAR)
            self.stream.flush()
        self._line, self._drawn = "", 0.0


@dataclass
class Story:
    """What the stages of one pipeline did, told on the screen of the command that started it, if one did."""

    told: list[str] = field(default_factory=list)
    _began: float = 0.0

    def foretell(self, *costs: str) -> None:
        """Say what the pipeline will take, before it begins."""
        if text := "; ".join(filter(None, costs)):
            run_logger().info("ahead: %s", text)
            if SCREEN is not None:
                SCREEN.say(f"Ahead: {text}.\n")

    def begin(self, stage: str) -> None:
        """Say which stage is at work, and from now on how far it is."""
        self._began = time.monotonic()
        title = f"{_number(stage)}. {STAGES[stage][0]}"
        if SCREEN is None:
            return
        if SCREEN.rewrites:
            SCREEN.show(f"{title} ...")
        else:
            SCREEN.say(f"{title} ...")

        def redraw(percent: float, description: str) -> None:
            if SCREEN is not None:
                SCREEN.show(f"{title} {percent:3.0f} %  {_duration(time.monotonic() - self._began)}  {description}")

        Progress.watcher = redraw

    def end(self, stage: str, result: Any) -> None:
        """Say what a stage did: in the run's log in full, on the screen in a line and what needs a person's eye."""
        Progress.watcher = None
        first, *rest = result.summary()
        title = f"{_number(stage)}. {STAGES[stage][1]}"
        text = "\n".join([f"{title}: {first}", *(f"   {line}".rstrip() for line in rest), ""])
        run_logger().info("%s", text)
        self.told.append(text)
        if SCREEN is None:
            return
        notes = NOTES[stage](result) if stage in NOTES else []
        more = [f"... and {len(notes) - MOST_NOTES} more"] if len(notes) > MOST_NOTES else []
        first = HEADLINES[stage](result) if stage in HEADLINES else first
        line = f"{title}: {first}  ({_duration(time.monotonic() - self._began)})"
        SCREEN.say(text if os.environ.get(DETAILS) else "\n     ".join([line, *notes[:MOST_NOTES], *more]))


SCREEN: Screen | None = None
"""The terminal of the command that runs in this process; none in a worker."""


@contextmanager
def screen(stream: TextIO, *, quiet: bool) -> Iterator[None]:
    """Show on a stream what the stages do; if `quiet`, without the warnings of other people's libraries.

    Lines of the log make room for themselves; of those that are no errors, `quiet` keeps only the runs' own. In the
    end, a line that is still being rewritten is removed.
    """
    global SCREEN
    SCREEN = own = Screen(stream)
    Progress.watcher = lambda percent, description: own.show(f"{percent:3.0f} %  {description}")

    def passes(record: logging.LogRecord) -> bool:
        is_news = record.name.startswith(OWN_LOGS) or record.levelno >= logging.ERROR
        if is_news or not quiet:
            own.wipe()
        return is_news or not quiet

    loggers = logging.getLogger(), logging.getLogger("prefect")
    handlers = [each for logger in loggers for each in logger.handlers if isinstance(each, logging.StreamHandler)]
    for handler in handlers:
        handler.addFilter(passes)
    try:
        with warnings.catch_warnings():
            if quiet and not sys.warnoptions:
                warnings.simplefilter("ignore")
            yield
    finally:
        for handler in handlers:
            handler.removeFilter(passes)
        own.wipe()
        SCREEN = Progress.watcher = None


def _number(stage: str) -> int:
    return list(STAGES).index(stage) + 1


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def _incomplete_sources(result: Any) -> list[str]:
    """Sources that are not whole, and files of the user's own that were not read: nothing is skipped in silence."""
    lines = [f"{outcome.source}: {outcome.describe().strip()}" for outcome in result.sources if outcome.problem]
    tables = [outcome.files for outcome in result.sources if outcome.files]
    return [*lines, *(line.strip() for table in tables for line in table.summary())]


def _headline_of_download(result: Any) -> str:
    """How many documents there are, and whether any of them is new."""
    is_old = result.sources and all(outcome.reused for outcome in result.sources)
    return f"{result.summary()[0]}{', already complete' if is_old else ''}"


def _headline_of_mixture(result: Any) -> str:
    """How many samples there are; the mixture's folder is that of every other line."""
    lines = result.summary()
    return f"{lines[1].strip() if len(lines) > 1 else lines[0]}{' (unchanged)' if result.reused else ''}"


def _uneven_shares(result: Any) -> list[str]:
    """What a mixture is that could not keep the shares of the method, and what that costs."""
    lines = result.summary()
    uneven = [line.removeprefix("Note: ") for line in lines if line.startswith(UNEVEN)]
    return uneven and [*uneven, *(line for line in lines if " - Target: " in line), COST]


HEADLINES: dict[str, Callable[[Any], str]] = {"download": _headline_of_download, "rebalance": _headline_of_mixture}
"""What a stage says in its line, where that is not the first line of its summary."""
NOTES: dict[str, Callable[[Any], list[str]]] = {
    "download": _incomplete_sources,
    "rebalance": _uneven_shares,
}
