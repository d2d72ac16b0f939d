"""Which runs have a process: each holds a lock file, which the operating system drops however the process ends.

Prefect knows of a run only what it was told last: one whose process was killed stays Running for ever. Whoever starts
next on this machine finds the lock files that nobody holds, and marks their runs.
"""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_HOME
from prefect.states import Cancelled, Crashed

from storage.lock import only_writer

FORGET_AFTER_SECONDS = 30 * 24 * 3600.0
AT_WORK = (StateType.PENDING, StateType.RUNNING, StateType.CANCELLING)
GO_ON = "Start it again: it goes on where it stopped."


def _registry() -> Path:
    folder = Path(PREFECT_HOME.value()) / "runs-at-work"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def known_to_live(run: UUID) -> Iterator[None]:
    """Hold the lock file of a run for the duration of the block."""
    folder = _registry()
    path = folder / str(run)
    with open(path, "a") as file:
        with only_writer(folder):  # nobody looks while the file is there and its lock is not
            path.touch()
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def dead_runs() -> list[UUID]:
    """Return the runs of this machine whose process has died."""
    folder, found = _registry(), []
    with only_writer(folder):
        for path in folder.iterdir():
            with contextlib.suppress(ValueError, BlockingIOError, FileNotFoundError), open(path) as file:
                run = UUID(path.name)
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                found.append(run)
    return found


async def mark_dead_runs(message: str = f"Its process ended without a word. {GO_ON}") -> list[str]:
    """Mark the runs of this machine whose process has died, with all that they were doing; return their names."""
    names: list[str] = []
    if not (dead := dead_runs()):
        return names
    async with get_client() as client:
        for run_id in dead:
            path = _registry() / str(run_id)
            try:
                run = await client.read_flow_run(run_id)
            except ObjectNotFound:  # deleted, or the run of another server
                if time.time() - path.stat().st_mtime > FORGET_AFTER_SECONDS:
                    path.unlink(missing_ok=True)
                continue
            if run.state is not None and run.state.type in AT_WORK:
                ended: State[Any] = (Cancelled if run.state.is_cancelling() else Crashed)(message=message)
                await client.set_flow_run_state(run_id, ended, force=True)
                names.append(run.name)
            await _mark_tasks(client, run_id, message)
            path.unlink(missing_ok=True)
    return names


async def _mark_tasks(client: PrefectClient, run_id: UUID, message: str) -> None:
    tasks = await client.read_task_runs(
        flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run_id])),
        task_run_filter=TaskRunFilter(state=TaskRunFilterState(type=TaskRunFilterStateType(any_=list(AT_WORK)))),
    )
    for task in tasks:
        await client.set_task_run_state(task.id, Crashed(message=message), force=True)
