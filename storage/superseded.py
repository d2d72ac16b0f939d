"""What a newer request would overwrite is moved out of the way: nothing is deleted, and each time has its own place.

Retention counts the age of superseded files from the newest change in them, so the move has to count as a change.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import count
from pathlib import Path


def free_place(place: Path) -> Path:
    """Return a path that does not exist yet: `place`, else ``place-2``, ``place-3`` and so on."""
    if not os.path.lexists(place):
        return place
    return next(free for number in count(2) if not os.path.lexists(free := place.with_name(f"{place.name}-{number}")))


def move_aside(folder: Path, place: Path) -> Path:
    """Move a whole folder to `place`, or beside an earlier one there; return its new path."""
    free = free_place(place)
    free.parent.mkdir(parents=True, exist_ok=True)
    os.replace(folder, free)
    os.utime(free)  # a folder that is renamed keeps the time of its last change
    return free


def move_entries_aside(entries: Iterable[Path], place: Path) -> Path:
    """Move files and folders into a new folder at `place`, or beside an earlier one; return that folder."""
    free = free_place(place)
    free.mkdir(parents=True)
    for entry in entries:
        os.replace(entry, free / entry.name)
    return free
