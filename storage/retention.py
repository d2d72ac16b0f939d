"""What may be removed from a store and why: old checkpoints, exports, set-aside datasets and leftovers.

Planning only reads. Removing takes the lock of the dataset, looks again, renames to a temporary name and only then
deletes, so that neither a writer nor a crash ever meets half of a thing. Finished datasets (raw, scored, balanced) are
never listed.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from storage import atomic
from storage.atomic import TEMPORARY_PREFIX
from storage.checkpoint import CheckpointState, list_checkpoints, read_state
from storage.errors import StoreError
from storage.layout import CHECKPOINT_PREFIX, SET_ASIDE, Layout, is_aside
from storage.lock import only_writer
from storage.manifest import MANIFEST
from storage.training_result import RESULT
from storage.untrusted import read_object

DAY_SECONDS = 86_400.0
EXPORT_RECORD = "export.json"
TEMPORARY_NAME = len(TEMPORARY_PREFIX) + 9
"""Where the final name begins in the name of a temporary entry: after the prefix, eight digits and a dash."""


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
    """Something that may be removed; `owner` is the dataset whose lock guards it."""

    path: Path
    kind: str
    reason: str
    owner: Path

    @property
    def bytes(self) -> int:
        """Size of the file, or of everything below the folder; links are not followed."""
        return sum(status.st_size for status in _statuses(self.path) if not stat.S_ISDIR(status.st_mode))


class Pruned(BaseModel):
    """What became of one entry, for the record and the report."""

    model_config = ConfigDict(frozen=True)

    what: str
    """Its path below the store."""
    kind: str
    bytes: int
    why: str
    outcome: str


class Pruning(BaseModel):
    """What a run removed from a store, or would remove."""

    model_config = ConfigDict(frozen=True)

    store: str
    dry_run: bool
    entries: tuple[Pruned, ...]

    @property
    def heading(self) -> str:
        """How many entries there are, and their size without what was kept."""
        total = sum(entry.bytes for entry in self.entries if not entry.outcome.startswith("kept"))
        return f"{len(self.entries)} entries, {'would free' if self.dry_run else 'freed'} {total / 1e6:,.1f} MB"

    def summary(self) -> list[str]:
        """What was or would be removed, with its size and the reason."""
        rows = [f"  {e.bytes / 1e6:>10,.1f} MB  {e.what}: {e.why} ({e.outcome})" for e in self.entries]
        advice = ["Nothing was removed; --no-dry-run removes it"] if self.dry_run and rows else []
        return [f"{self.store}: {self.heading}", *rows, *advice]


def plan_removals(layout: Layout, keep: RetentionParameters, now: float | None = None) -> list[Removal]:
    """List what may be removed, in the order of the store's stages; `now` is seconds since the epoch."""
    now = time.time() if now is None else now
    return [
        *old_checkpoints(layout, keep),
        *finished_workspaces(layout),
        *old_set_aside(layout, keep, now),
        *old_exports(layout, keep, now),
        *old_leftovers(layout, keep, now),
    ]


def old_checkpoints(layout: Layout, keep: RetentionParameters) -> Iterator[Removal]:
    """Checkpoints of finished and unfinished runs except the newest, the best and those that a record names."""
    for run in _folders(layout.root / "runs"):
        checkpoints = list_checkpoints(run)
        needed = _needed_checkpoints(run, checkpoints)
        for step, folder in checkpoints[: max(0, len(checkpoints) - keep.keep_checkpoints)]:
            if folder.name not in needed and not folder.is_symlink():
                reason = (
                    f"step {step} of run {run.name} is neither its best nor among its newest {keep.keep_checkpoints}"
                )
                yield Removal(folder, "checkpoint", reason, run)


def _needed_checkpoints(run: Path, checkpoints: list[tuple[int, Path]]) -> set[str]:
    """Names of the checkpoints that a run's result, its best validation, its last export or evaluation refers to."""
    records = []
    for file in (RESULT, EXPORT_RECORD, "evaluate.json"):
        with contextlib.suppress(OSError, ValueError):
            records.append(read_object(run / file))
    for _, folder in checkpoints[-1:]:
        with contextlib.suppress(StoreError):
            records.append({"best": read_state(folder, CheckpointState).best})
    named = [name for record in records for name in (record.get("adapter"), *(record.get("others") or {}).values())]
    best = [(record.get("best") or {}).get("step") for record in records]
    return {Path(str(name)).name for name in named if name} | {f"{CHECKPOINT_PREFIX}{step}" for step in best}


def finished_workspaces(layout: Layout) -> Iterator[Removal]:
    """What interrupted downloads went on from, once their source is complete."""
    for folder in _folders(layout.root / "unfinished"):
        if (layout.raw(folder.name) / MANIFEST).is_file():
            reason = f"source {folder.name} is complete, nothing resumes from this"
            yield Removal(folder, "unfinished", reason, layout.raw(folder.name))


def old_set_aside(layout: Layout, keep: RetentionParameters, now: float) -> Iterator[Removal]:
    """Datasets and runs that a newer request replaced long ago, and checkpoints of another course of a run."""
    stages, runs = _folders(layout.root / SET_ASIDE), _folders(layout.root / "runs")
    replaced = [(folder, stage.name, folder) for stage in stages for folder in _folders(stage)]
    courses = [(folder, "checkpoints", run) for run in runs for folder in _folders(run) if is_aside(folder)]
    for folder, kind, owner in (*replaced, *courses):
        age_days = (now - newest_change(folder)) / DAY_SECONDS
        if age_days >= keep.keep_days:
            reason = f"set aside, unchanged for {age_days:.0f} days"
            yield Removal(folder, f"set-aside {kind}", reason, owner)


def old_exports(layout: Layout, keep: RetentionParameters, now: float) -> Iterator[Removal]:
    """Whole exports except the newest; the folders of other programs that link to them keep their files."""
    whole = [folder for folder in _folders(layout.root / "exports") if (folder / EXPORT_RECORD).is_file()]
    whole.sort(key=lambda folder: (folder / EXPORT_RECORD).stat().st_mtime, reverse=True)
    for folder in whole[keep.keep_exports :]:
        age_days = (now - newest_change(folder)) / DAY_SECONDS
        if age_days >= keep.keep_days:
            reason = f"{age_days:.0f} days old and not among the newest {keep.keep_exports}"
            yield Removal(folder, "export", reason, folder)


def old_leftovers(layout: Layout, keep: RetentionParameters, now: float) -> Iterator[Removal]:
    """What killed processes left half-written."""
    for path in sorted(layout.root.rglob(f"{TEMPORARY_PREFIX}*")):
        above = path.relative_to(layout.root).parts[:-1]
        if path.is_symlink() or any(part.startswith(TEMPORARY_PREFIX) for part in above):
            continue
        age_hours = (now - newest_change(path)) / 3600.0
        if age_hours >= keep.leftover_hours:
            reason = f"half-written {age_hours:.0f} hours ago by a process that was killed"
            yield Removal(path, "leftover", reason, _owner_of_leftover(layout, path))


def _owner_of_leftover(layout: Layout, path: Path) -> Path:
    """The dataset ``stage/name`` that a temporary entry was written for, whether the entry is in it or beside it."""
    stage, name, *below = path.relative_to(layout.root).parts if path.parent != layout.root else ("", path.name)
    return layout.root / stage / (name if below else name[TEMPORARY_NAME:] or name)


def remove(layout: Layout, removal: Removal, keep: RetentionParameters, now: float | None = None) -> bool:
    """Delete one thing unless its dataset is being written or it is needed by now; tell whether it was deleted."""
    with contextlib.suppress(StoreError), only_writer(removal.owner, patience_seconds=0.0):
        if removal.path not in {again.path for again in plan_removals(layout, keep, now)}:
            return False
        going = removal.path
        if not going.name.startswith(TEMPORARY_PREFIX):
            # Renamed in one step: no process sees a checkpoint or an export with half of its files.
            going = atomic.temporary_beside(going)
            os.replace(removal.path, going)
        atomic.remove(going)
        return True
    return False


def newest_change(path: Path) -> float:
    """When a file, or anything below a folder, was changed last (seconds since the epoch)."""
    return max((status.st_mtime for status in _statuses(path)), default=0.0)


def _statuses(path: Path) -> Iterator[os.stat_result]:
    for entry in [path, *path.rglob("*")] if path.is_dir() else [path]:
        with contextlib.suppress(FileNotFoundError):
            yield entry.lstat()


def _folders(parent: Path) -> list[Path]:
    """Real folders directly below `parent`, without hidden ones and links."""
    entries = parent.iterdir() if parent.is_dir() else ()
    return sorted(path for path in entries if path.is_dir() and not path.is_symlink() and not path.name.startswith("."))
