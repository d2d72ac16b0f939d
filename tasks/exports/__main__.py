"""``python -m tasks.exports SPECIFICATION.json``: one export in a process of its own."""

from __future__ import annotations

import signal
from types import FrameType

from storage.events import serve_specification
from tasks.exports.export import export_model
from tasks.exports.parameters import ExportRequest


def leave(number: int, frame: FrameType | None) -> None:
    """Turn a request to stop into an exit that still removes the temporary folder."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, leave)
    raise SystemExit(serve_specification(export_model, ExportRequest))
