"""Training checkpoints: a folder that appears whole, with ``state.json`` written last."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from storage.aside import move_entries_aside
from storage.atomic import atomic_folder, full_disk_explained, remove, write_json
from storage.errors import StoreError
from storage.layout import CHECKPOINT_PREFIX, aside_folder, checkpoint_folder
from storage.training_result import RESULT
from storage.untrusted import read_object

STATE = "state.json"
FILES = "files"
"""Key of the state under which the digest of each file is kept."""


def write_checkpoint(run: Path, step: int, write_files: Callable[[Path], None], state: dict[str, Any]) -> Path:
    """Write a checkpoint.

    Args:
        run: The run's folder.
        step: Optimiser steps done.
        write_files: Writes the tensors into the folder it is given.
        state: JSON-able state: step, data cursor, hashes, normaliser.

    Returns:
        The checkpoint's folder.

    Raises:
        StoreError: The disk is full; the checkpoints before this one are whole.
    """
    final = checkpoint_folder(run, step)
    with full_disk_explained(run), atomic_folder(final) as folder:
        write_files(folder)
        digests = {file.name: _digest(file) for file in sorted(folder.iterdir())}
        write_json(folder / STATE, state | {FILES: digests})
    return final


def _digest(file: Path) -> str:
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def damaged_files(checkpoint: Path) -> list[str]:
    """Return the files of a checkpoint that are missing or are not what was written.

    Raises:
        StoreError: The folder is no whole checkpoint.
    """
    digests: dict[str, str] = read_state(checkpoint).get(FILES, {})
    return [
        name
        for name, digest in digests.items()
        if not (checkpoint / Path(name).name).is_file() or _digest(checkpoint / Path(name).name) != digest
    ]


def list_checkpoints(run: Path) -> list[tuple[int, Path]]:
    """List the whole checkpoints of a run as (step, folder), oldest first."""
    found = []
    for folder in run.glob(f"{CHECKPOINT_PREFIX}*"):
        suffix = folder.name.removeprefix(CHECKPOINT_PREFIX)
        if suffix.isdigit() and (folder / STATE).is_file():
            found.append((int(suffix), folder))
    return sorted(found)


def read_state(checkpoint: Path) -> dict[str, Any]:
    """Read a checkpoint's state.

    Raises:
        StoreError: The folder is no whole checkpoint.
    """
    try:
        return read_object(checkpoint / STATE)
    except (OSError, ValueError) as error:
        raise StoreError(f"{checkpoint} is not a whole checkpoint ({error}); resume from another one") from error


def set_later_aside(run: Path, step: int) -> Path | None:
    """Move the checkpoints beyond a step out of the way of those that the run will write from there on.

    They belong to another course of the run: left where they are, they would count as newer than what comes, which
    would be pruned in their stead. A result that names one of them goes along. Nothing is deleted.

    Returns:
        The folder in which they lie now; none if there were none.
    """
    later = [folder for number, folder in list_checkpoints(run) if number > step]
    if not later:
        return None
    result = [run / RESULT] if _names_one(run / RESULT, {folder.name for folder in later}) else []
    return move_entries_aside([*result, *later], aside_folder(run))


def _names_one(result: Path, checkpoints: Collection[str]) -> bool:
    try:
        return read_object(result).get("adapter") in checkpoints
    except (OSError, ValueError):
        return False


def prune_checkpoints(run: Path, keep_last: int, keep: frozenset[int] = frozenset()) -> list[int]:
    """Delete all but the newest `keep_last` checkpoints and those whose step is in `keep`; return what went."""
    removed = []
    checkpoints = list_checkpoints(run)
    for step, folder in checkpoints[: max(0, len(checkpoints) - keep_last)]:
        if step not in keep:
            remove(folder)
            removed.append(step)
    return removed
