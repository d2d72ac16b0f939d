"""What of a store may go: old checkpoints, exports, set-aside datasets and leftovers, and why.

Planning only reads. Removing takes the lock of the dataset that something belongs to, looks again, renames it to a
temporary name and only then deletes, so that neither a writer nor a crash ever meets half of it.

Datasets that a sealed manifest refers to (raw, scored, balanced) are never listed here.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from storage.atomic import TEMPORARY_PREFIX
from storage.atomic import remove as delete
from storage.checkpoint import list_checkpoints, read_state
from storage.errors import StoreError
from storage.layout import SET_ASIDE, Layout, is_aside
from storage.lock import only_writer
from storage.manifest import MANIFEST
from storage.training_result import RESULT
from storage.untrusted import read_object

DAY_SECONDS = 86_400.0
EXPORT_RECORD = "export.json"
TEMPORARY_NAME = len(TEMPORARY_PREFIX) + 9
"""Where the name of the entry begins that a temporary one was to become: the prefix, eight digits, a dash."""


class RetentionParameters(BaseModel):
    """What is kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keep_checkpoints: int = Field(
        2, ge=1, le=1000, title="Keep checkpoints", description="Newest checkpoints kept per run, beside the best one."
    )
    keep_exports: int = Field(
        2, ge=1, le=1000, title="Keep exports", description="Newest exports kept, whatever their age."
    )
    keep_days: float = Field(
        30.0,
        ge=0,
        le=10_000,
        title="Keep days",
        description="Age in days from which other exports, and what was set aside, may go.",
    )
    leftover_hours: float = Field(
        24.0, ge=0, le=10_000, title="Leftover hours", description="Age in hours from which half-written files may go."
    )


@dataclass(frozen=True)
class Removal:
    """Something that may go."""

    path: Path
    kind: str
    bytes: int
    reason: str
    owner: Path
    """The dataset whose lock guards it."""


def plan_removals(layout: Layout, keep: RetentionParameters, now: float | None = None) -> list[Removal]:
    """List what may go, in the order of the store's stages; `now` is seconds since the epoch."""
    now = time.time() if now is None else now
    return [
        *old_checkpoints(layout, keep),
        *finished_workspaces(layout),
        *old_set_aside(layout, keep, now),
        *old_exports(layout, keep, now),
        *old_leftovers(layout, keep, now),
    ]


def old_checkpoints(layout: Layout, keep: RetentionParameters) -> Iterator[Removal]:
    """Checkpoints of finished and unfinished runs but the newest, the best and the one that the result names."""
    for run in _folders(layout.root / "runs"):
        checkpoints = list_checkpoints(run)
        protected = _needed_checkpoints(run, checkpoints)
        for step, folder in checkpoints[: max(0, len(checkpoints) - keep.keep_checkpoints)]:
            if folder.name not in protected and not folder.is_symlink():
                reason = (
                    f"step {step} of run {run.name} is neither its best nor among its newest {keep.keep_checkpoints}"
                )
                yield Removal(folder, "checkpoint", measure(folder), reason, run)


def _needed_checkpoints(run: Path, checkpoints: list[tuple[int, Path]]) -> set[str]:
    """Names of the checkpoints that a run's result, its best validation or an evaluation refers to."""
    needed = set()
    for file in (RESULT, "export.json", "evaluate.json"):  # result, and what was last exported and evaluated
        try:
            content = read_object(run / file)
        except (OSError, ValueError):
            continue
        others = content.get("others") or {}
        needed |= {Path(str(named)).name for named in (content.get("adapter"), *others.values()) if named}
        needed.add(f"checkpoint-{(content.get('best') or {}).get('step')}")
    for _, folder in checkpoints[-1:]:
        with contextlib.suppress(StoreError):
            needed.add(f"checkpoint-{(read_state(folder).get('best') or {}).get('step')}")
    return needed


def finished_workspaces(layout: Layout) -> Iterator[Removal]:
    """What interrupted downloads went on from, where the source is sealed by now."""
    for folder in _folders(layout.root / "unfinished"):
        if (layout.raw(folder.name) / MANIFEST).is_file():
            reason = f"source {folder.name} is sealed, nothing goes on from this"
            yield Removal(folder, "unfinished", measure(folder), reason, layout.raw(folder.name))


def old_set_aside(layout: Layout, keep: RetentionParameters, now: float) -> Iterator[Removal]:
    """Datasets and runs that a newer request replaced long ago, and checkpoints of another course of a run."""
    stages = _folders(layout.root / SET_ASIDE)
    replaced = [(folder, stage.name, folder) for stage in stages for folder in _folders(stage)]
    runs = _folders(layout.root / "runs")
    courses = [(folder, "checkpoints", run) for run in runs for folder in _folders(run) if is_aside(folder)]
    for folder, kind, owner in (*replaced, *courses):
        age_days = (now - newest_change(folder)) / DAY_SECONDS
        if age_days >= keep.keep_days:
            reason = f"set aside, unchanged for {age_days:.0f} days"
            yield Removal(folder, f"set-aside {kind}", measure(folder), reason, owner)


def old_exports(layout: Layout, keep: RetentionParameters, now: float) -> Iterator[Removal]:
    """Whole exports but the newest; the folders of other programs that link to them keep their files."""
    whole = [folder for folder in _folders(layout.root / "exports") if (folder / EXPORT_RECORD).is_file()]
    whole.sort(key=lambda folder: (folder / EXPORT_RECORD).stat().st_mtime, reverse=True)
    for folder in whole[keep.keep_exports :]:
        age_days = (now - newest_change(folder)) / DAY_SECONDS
        if age_days >= keep.keep_days:
            reason = f"{age_days:.0f} days old and not among the newest {keep.keep_exports}"
            yield Removal(folder, "export", measure(folder), reason, folder)


def old_leftovers(layout: Layout, keep: RetentionParameters, now: float) -> Iterator[Removal]:
    """What killed processes left half-written."""
    for path in sorted(layout.root.rglob(f"{TEMPORARY_PREFIX}*")):
        inside_another = any(part.startswith(TEMPORARY_PREFIX) for part in path.relative_to(layout.root).parts[:-1])
        if inside_another or path.is_symlink():
            continue
        age_hours = (now - newest_change(path)) / 3600.0
        if age_hours >= keep.leftover_hours:
            reason = f"half-written {age_hours:.0f} hours ago by a process that was killed"
            yield Removal(path, "leftover", measure(path), reason, _owner_of_leftover(layout, path))


def _owner_of_leftover(layout: Layout, path: Path) -> Path:
    """The dataset that a temporary entry was written for: ``stage/name``, whether the entry lies in it or beside it."""
    stage, name, *below = path.relative_to(layout.root).parts if path.parent != layout.root else ("", path.name)
    return layout.root / stage / (name if below else name[TEMPORARY_NAME:] or name)


def remove(layout: Layout, removal: Removal, keep: RetentionParameters, now: float | None = None) -> bool:
    """Delete one thing unless a writer is at work on its dataset or it is needed by now; tell whether it went."""
    with contextlib.suppress(StoreError), only_writer(removal.owner, patience_seconds=0.0):
        if removal.path not in {again.path for again in plan_removals(layout, keep, now)}:
            return False
        going = removal.path
        if not going.name.startswith(TEMPORARY_PREFIX):
            # Renamed in one step: nobody sees a checkpoint or an export with half of its files.
            going = going.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex[:8]}-{going.name}")
            os.replace(removal.path, going)
        delete(going)
        return True
    return False


def measure(path: Path) -> int:
    """Bytes of a file or of everything below a folder; links are not followed."""
    entries = [path, *path.rglob("*")] if path.is_dir() else [path]
    sizes = 0
    for entry in entries:
        with contextlib.suppress(FileNotFoundError):
            sizes += entry.lstat().st_size if entry.is_symlink() or entry.is_file() else 0
    return sizes


def newest_change(path: Path) -> float:
    """When a file, or anything below a folder, was changed last (seconds since the epoch)."""
    newest = 0.0
    for entry in [path, *path.rglob("*")] if path.is_dir() else [path]:
        with contextlib.suppress(FileNotFoundError):
            newest = max(newest, entry.lstat().st_mtime)
    return newest


def _folders(parent: Path) -> list[Path]:
    """Real folders directly below `parent`; hidden ones and links are nobody's dataset."""
    if not parent.is_dir():
        return []
    return sorted(
        path for path in parent.iterdir() if path.is_dir() and not path.is_symlink() and not path.name.startswith(".")
    )
