"""Parses untrusted files in child processes, each within bounds of time and memory."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tasks.sources.files.record import FileText, Unreadable

SECONDS_A_FILE = 60.0
MOST_ANSWER_BYTES = 512 * 2**20
PROCESSES = max(1, min(4, os.cpu_count() or 1))
ROOT = Path(__file__).resolve().parents[3]


class Parsers:
    """A few child processes, started when they are first needed; a thread may use each in turn."""

    def __init__(self, most_chars: int) -> None:
        self._most_chars = most_chars
        self._free: queue.LifoQueue[subprocess.Popen[bytes] | None] = queue.LifoQueue()
        for _ in range(PROCESSES):
            self._free.put(None)

    def text(self, kind: str, path: Path) -> FileText:
        """Read a document."""
        return FileText(**self._ask(kind, path))

    def sheets(self, path: Path) -> list[tuple[str, list[list[Any]]]]:
        """Read the sheets of a workbook: the name of each and its rows."""
        return [(name, rows) for name, rows in self._ask("sheet", path)["sheets"]]

    def close(self) -> None:
        """End the processes; blocks until the last request is answered."""
        for _ in range(PROCESSES):
            _end(self._free.get())
        for _ in range(PROCESSES):
            self._free.put(None)

    def _ask(self, kind: str, path: Path) -> dict[str, Any]:
        child = self._free.get()
        try:
            if child is None or child.poll() is not None:
                child = _start()
            found = _exchange(child, [kind, str(path.absolute()), self._most_chars])
        except BaseException:
            _end(child)
            child = None
            raise
        finally:
            self._free.put(child)
        if "reason" in found:
            raise Unreadable(found["reason"], found["detail"])
        return found


def _start() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "tasks.sources.files.child"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the download, which ends its children itself
    )


def _exchange(child: subprocess.Popen[bytes], request: list[Any]) -> dict[str, Any]:
    assert child.stdin is not None and child.stdout is not None
    try:
        child.stdin.write(json.dumps(request).encode() + b"\n")
        child.stdin.flush()
    except BrokenPipeError as error:
        raise Unreadable("parser-crashed", "its parser crashed") from error
    answer, poll = child.stdout.fileno(), select.poll()
    poll.register(answer, select.POLLIN | select.POLLHUP)
    parts: list[bytes] = []
    size, deadline = 0, time.monotonic() + SECONDS_A_FILE
    while not parts or not parts[-1].endswith(b"\n"):
        if not poll.poll(1000 * max(0.0, deadline - time.monotonic())):
            raise Unreadable("too-slow", f"parsing it takes more than {SECONDS_A_FILE:.0f} s")
        part = os.read(answer, 2**20)
        if not part:
            raise Unreadable("parser-crashed", "its parser crashed, or took more memory than it may")
        parts.append(part)
        size += len(part)
        if size > MOST_ANSWER_BYTES:
            raise Unreadable("expands-too-far", f"its text takes more than {MOST_ANSWER_BYTES:,} bytes")
    found: dict[str, Any] = json.loads(b"".join(parts))
    return found


def _end(child: subprocess.Popen[bytes] | None) -> None:
    if child is None:
        return
    child.kill()
    for pipe in (child.stdin, child.stdout):
        with contextlib.suppress(OSError):
            if pipe is not None:
                pipe.close()
    child.wait()
