"""What child processes print, read for tests."""

from __future__ import annotations

from typing import Any

from storage.events import Event


def parse_event(line: str) -> dict[str, Any]:
    """Read one line of a child as a plain dictionary."""
    return {"event": (event := Event.read(line)).event, **event.model_dump(exclude_unset=True)}
