"""How a child process that owns the accelerator talks to its parent: one JSON object a line on stdout.

The parent writes a specification file and starts ``python -m tasks.<room> SPEC``; the child prints events, the
last of which is ``{"event": "result", ...}`` or ``{"event": "error", "kind": ..., "message": ...}``. Lines
that are no JSON object are plain log lines.
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
from typing import Any

from storage import blas
from storage.errors import DistrustError

Emit = Callable[..., None]

ORPHAN_GRACE_SECONDS = 100.0
"""What a process has to save after its parent died; a service that is stopped grants its processes 120 in all."""


def emit(event: str, **fields: Any) -> None:
    """Print one event."""
    print(json.dumps({"event": event, **fields}, ensure_ascii=False, default=str), flush=True)


def parse_event(line: str) -> dict[str, Any]:
    """Read one line of a child; a line that is no event becomes ``{"event": "log", "message": line}``."""
    try:
        value = json.loads(line)
    except json.JSONDecodeError:
        value = None
    if isinstance(value, dict) and isinstance(value.get("event"), str):
        return value
    return {"event": "log", "message": line.rstrip("\n")}


def end_with_parent(poll_seconds: float = 1.0, grace_seconds: float = ORPHAN_GRACE_SECONDS) -> None:
    """End this process soon after its parent dies, so that a killed run leaves nobody writing behind it.

    The process first gets a SIGTERM, on which a trainer writes a checkpoint; after `grace_seconds` it is over.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(poll_seconds)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace_seconds)
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


def serve_specification(work: Callable[[dict[str, Any], Emit], dict[str, Any]]) -> int:
    """Run `work` on the specification file named on the command line; return the exit status.

    A deliberate error becomes an ``error`` event that carries its class name, so that the parent can raise
    the same class; anything else is a defect and keeps its traceback.
    """
    if len(sys.argv) != 2:
        print("usage: python -m tasks.<room> SPECIFICATION.json", file=sys.stderr)
        return 2
    end_with_parent()
    blas.load()
    specification = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    try:
        result = work(specification, emit)
    except DistrustError as error:
        emit("error", kind=type(error).__name__, message=str(error))
        return 1
    emit("result", **result)
    return 0
