"""Training checkpoints: a folder that appears whole, with ``state.json`` written last."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from storage.atomic import atomic_folder, full_disk_explained, move_entries_aside, remove, write_json
from storage.chat_layout import UNRECORDED
from storage.errors import StoreError
from storage.layout import CHECKPOINT_PREFIX, aside_folder, checkpoint_folder
from storage.training_result import RESULT
from storage.untrusted import file_sha256, one_line, read_object

STATE = "state.json"

State = TypeVar("State", bound=BaseModel)


class CheckpointState(BaseModel):
    """What others than the training read in ``state.json``."""

    files: dict[str, str] = {}
    """The digest of each file."""
    layout: str = UNRECORDED
    best: dict[str, int | float] | None = None
    resumed_from: str | None = None


def write_checkpoint(run: Path, step: int, write_files: Callable[[Path], None], state: Mapping[str, object]) -> Path:
    """Write a checkpoint and return its folder; `write_files` writes the tensors into the folder that it is given.

    Raises:
        StoreError: The disk is full; the checkpoints before this one are whole.
    """
    final = checkpoint_folder(run, step)
    with full_disk_explained(run), atomic_folder(final) as folder:
        write_files(folder)
        digests = {file.name: file_sha256(file) for file in sorted(folder.iterdir())}
        write_json(folder / STATE, {**state, "files": digests})
    return final


def damaged_files(checkpoint: Path) -> list[str]:
    """Return the files of a checkpoint that are missing or changed.

    Raises:
        StoreError: The folder is not a whole checkpoint.
    """
    digests = read_state(checkpoint, CheckpointState).files
    files = {name: checkpoint / Path(name).name for name in digests}
    return [name for name, file in files.items() if not file.is_file() or file_sha256(file) != digests[name]]


def list_checkpoints(run: Path) -> list[tuple[int, Path]]:
    """List the whole checkpoints of a run as (step, folder), oldest first."""
    found = []
    for folder in run.glob(f"{CHECKPOINT_PREFIX}*"):
        suffix = folder.name.removeprefix(CHECKPOINT_PREFIX)
        if suffix.isdigit() and (folder / STATE).is_file():
            found.append((int(suffix), folder))
    return sorted(found)


def read_state(checkpoint: Path, model: type[State]) -> State:
    """Read what a model names of a checkpoint's state; StoreError if the folder is not a whole checkpoint."""
    try:
        return model.model_validate(read_object(checkpoint / STATE))
    except ValidationError as error:
        raise StoreError(
            f"{checkpoint / STATE} is not a training state ({one_line(error)}); resume from another one"
        ) from error
    except (OSError, ValueError) as error:
        raise StoreError(f"{checkpoint} is not a complete checkpoint ({error}); resume from another one") from error


def trained_layout(adapter: Path) -> str | None:
    """Name the chat layout that an adapter was trained in; none for an adapter that another program trained."""
    if not (adapter / STATE).is_file():
        return None
    return read_state(adapter, CheckpointState).layout


def set_later_aside(run: Path, step: int) -> Path | None:
    """Move the checkpoints beyond a step out of the way of those that the run will write from there on.

    Left in place they would count as newer than the coming ones, which would be pruned in their stead. A result that
    names one of them goes along. Nothing is deleted. Returns their new folder; None if there were none.
    """
    later = [folder for number, folder in list_checkpoints(run) if number > step]
    if not later:
        return None
    try:
        named = read_object(run / RESULT).get("adapter")
    except (OSError, ValueError):
        named = None
    result = [run / RESULT] if named in [folder.name for folder in later] else []
    return move_entries_aside([*result, *later], aside_folder(run))


def prune_checkpoints(run: Path, keep_last: int, keep: frozenset[int] = frozenset()) -> list[int]:
    """Delete all but the newest `keep_last` checkpoints and the steps in `keep`; return the deleted steps."""
    checkpoints = list_checkpoints(run)
    old = [entry for entry in checkpoints[: max(0, len(checkpoints) - keep_last)] if entry[0] not in keep]
    for _, folder in old:
        remove(folder)
    return [step for step, _ in old]
