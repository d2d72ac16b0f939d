"""How a child process that owns the accelerator talks to its parent: one JSON object a line on stdout.

The parent writes a specification file and starts ``python -m tasks.<room> SPEC``; the child prints events, the last of
which is a `ResultEvent` or an `ErrorEvent`. Any other line is a line of its log.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from storage import blas, errors
from storage.errors import DistrustError, ParameterError

Emit = Callable[..., None]
"""Takes an `Event`, or the name of one and its fields."""
Specification = TypeVar("Specification", bound=BaseModel)

ORPHAN_GRACE_SECONDS = 100.0
"""What a process has to save after its parent died; a service that is stopped grants its processes 120 in all."""


class Event(BaseModel):
    """One line: ``{"event": NAME, ...}``. Fields beyond those declared belong to the room that prints it."""

    model_config = ConfigDict(frozen=True, extra="allow")

    event: str

    def line(self) -> str:
        """Write the event as one line."""
        return json.dumps(self.model_dump(), ensure_ascii=False, default=str)

    @staticmethod
    def read(line: str) -> Event:
        """Read one line; a line that is not an event becomes a `LogEvent`."""
        try:
            fields = json.loads(line)
            return EVENTS.get(fields["event"], Event).model_validate(fields)
        except (ValueError, TypeError, KeyError, RecursionError):
            return LogEvent(message=line.rstrip("\n"))


class LogEvent(Event):
    """A sentence for the log."""

    event: Literal["log"] = "log"
    message: str


class ProgressEvent(Event):
    """How much of a stage is done."""

    event: Literal["progress"] = "progress"
    stage: str = ""
    done: float = 0.0
    total: float = 1.0
    message: str = ""


class ResultEvent(Event):
    """What came out; its fields are those of the room's result."""

    event: Literal["result"] = "result"


class ErrorEvent(Event):
    """A deliberate error, which ends the child."""

    event: Literal["error"] = "error"
    kind: str
    """Name of the error's class in `storage.errors`."""
    message: str

    def to_error(self) -> DistrustError:
        """Return the error as the child raised it; of an unknown class it becomes a plain `DistrustError`."""
        kind = getattr(errors, self.kind, None)
        return (kind if isinstance(kind, type) and issubclass(kind, DistrustError) else DistrustError)(self.message)


EVENTS: dict[str, type[Event]] = {
    "log": LogEvent,
    "progress": ProgressEvent,
    "result": ResultEvent,
    "error": ErrorEvent,
}


def emit(event: Event | str, **fields: Any) -> None:
    """Print one event."""
    print((Event(event=event, **fields) if isinstance(event, str) else event).line(), flush=True)


def end_with_parent() -> None:
    """End this process soon after its parent dies, so that nothing goes on writing behind a killed run.

    The process first gets a SIGTERM, on which a trainer writes a checkpoint; after `ORPHAN_GRACE_SECONDS` it ends.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(ORPHAN_GRACE_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


def read_specification(text: str, model: type[Specification]) -> Specification:
    """Read what a child is to do; ParameterError names every faulty field with its value and bound."""
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg']} (got {fault['input']!r})" for fault in error.errors()
        )
        raise ParameterError(f"the specification has {error.error_count()} faults: {faults}") from error


def serve_specification(work: Callable[[Specification, Emit], BaseModel], model: type[Specification]) -> int:
    """Run `work` on the specification file named on the command line; return the exit status.

    A deliberate error becomes an `ErrorEvent`, so that the parent can raise the same class; any other error is a defect
    and keeps its traceback.

    Args:
        work: What to do with the specification; returns the result.
        model: The model that reads the specification.
    """
    if len(sys.argv) != 2:
        print("usage: python -m tasks.<room> SPECIFICATION.json", file=sys.stderr)
        return 2
    end_with_parent()
    blas.load()
    text = Path(sys.argv[1]).read_text("utf-8")
    try:
        result = work(read_specification(text, model), emit)
    except DistrustError as error:
        emit(ErrorEvent(kind=type(error).__name__, message=str(error)))
        return 1
    emit("result", **result.model_dump(mode="json", exclude_unset=True))
    return 0
