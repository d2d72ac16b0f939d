"""What a newer request would overwrite is moved out of the way: nothing is deleted, and each time has its own place.

Retention counts how long something lies aside from the newest change in it, so being moved there has to be one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import count
from pathlib import Path


def free_place(place: Path) -> Path:
    """Return a path where nothing lies: `place`, else ``place-2``, ``place-3`` and so on."""
    if not os.path.lexists(place):
        return place
    return next(free for number in count(2) if not os.path.lexists(free := place.with_name(f"{place.name}-{number}")))


def move_aside(folder: Path, place: Path) -> Path:
    """Move a whole folder to `place`, or beside what lies there from another time; return where it lies now."""
    free = free_place(place)
    free.parent.mkdir(parents=True, exist_ok=True)
    os.replace(folder, free)
    os.utime(free)  # a folder that is renamed keeps the time of its last change
    return free


def move_entries_aside(entries: Iterable[Path], place: Path) -> Path:
    """Move files and folders into a new folder at `place`, or beside one from another time; return that folder."""
    free = free_place(place)
    free.mkdir(parents=True)
    for entry in entries:
        os.replace(entry, free / entry.name)
    return free
