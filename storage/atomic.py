"""Files and folders that appear whole or not at all.

Everything is written beside its final place, synced to disk and renamed; a crash leaves at most a hidden
temporary entry, never a half-written file under a final name.
"""

from __future__ import annotations

import errno
import glob
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from storage.errors import StoreError

TEMPORARY_PREFIX = ".tmp-"


def temporary_beside(path: Path) -> Path:
    """Return a new temporary path in the folder of `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.parent / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex[:8]}-{path.name}"


def sync_file(path: Path) -> None:
    """Force a file's bytes, or a folder's entries, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path that becomes `path` when the block ends without an error.

    Raises:
        StoreError: The disk is full.
    """
    temporary = temporary_beside(path)
    try:
        with full_disk_explained(path):
            yield temporary
            sync_file(temporary)
            os.replace(temporary, path)
            sync_file(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder that becomes `path` when the block ends without an error.

    An existing folder at `path` is replaced, and so is a link, but not its target. If the process dies between the two
    renames, the new folder is lost and the old one survives under a temporary name.
    """
    temporary = temporary_beside(path)
    temporary.mkdir()
    try:
        yield temporary
        for entry in (*temporary.rglob("*"), temporary):
            if entry.is_file() or entry.is_dir():
                sync_file(entry)
        if os.path.lexists(path):
            old = temporary_beside(path)
            os.replace(path, old)
            try:
                os.replace(temporary, path)
            except BaseException:  # a signal that asks the process to end, for example
                os.replace(old, path)
                raise
            remove(old)
        else:
            os.replace(temporary, path)
        sync_file(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove(entry: Path) -> None:
    """Delete a file, a folder with everything in it, or a link, but not its target."""
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    else:
        entry.unlink(missing_ok=True)


@contextmanager
def full_disk_explained(path: Path) -> Iterator[None]:
    """Turn the system's error for a full disk into one that says what to do; `atomic_path` includes this.

    Raises:
        StoreError: The disk is full, or a quota or a file size limit is reached.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        if isinstance(error, OSError):
            full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        else:
            full = "Unable to write" in str(error)  # what MLX raises
        if not full:
            raise
        free = shutil.disk_usage(path if path.is_dir() else path.parent).free
        raise StoreError(
            f"no room to write {path} ({error}; {free / 2**20:.0f} MiB free); no half-written file "
            "remains: free some space or name another store, then run again"
        ) from error


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write UTF-8 text atomically."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically: UTF-8, two-space indent, keys in the order given, a final newline."""
    write_text(path, json.dumps(content, ensure_ascii=False, indent=2) + "\n")


def remove_temporaries(folder: Path, pattern: str = "*") -> int:
    """Delete half-written entries that a killed process left directly in `folder`; return their number."""
    count = 0
    for entry in folder.glob(f"{TEMPORARY_PREFIX}{pattern}"):
        with suppress(OSError):
            remove(entry)
            count += 1
    return count


def remove_temporaries_of(path: Path) -> int:
    """Delete temporary entries that a killed process left beside `path`; needs the lock of `path`."""
    return remove_temporaries(path.parent, f"????????-{glob.escape(path.name)}")


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
    os.utime(free)  # retention counts from here; a folder that is renamed keeps the time of its last change
    return free


def move_entries_aside(entries: Iterable[Path], place: Path) -> Path:
    """Move files and folders into a new folder at `place`, or beside an earlier one; return that folder."""
    free = free_place(place)
    free.mkdir(parents=True)
    for entry in entries:
        os.replace(entry, free / entry.name)
    return free
