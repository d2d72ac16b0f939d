"""Which runs have a process: each holds a lock file, which the operating system drops however the process ends.

Prefect knows of a run only what it was told last: one whose process was killed stays Running for ever. Whoever starts
next on this machine finds the lock files that nobody holds, and marks their runs.
"""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_HOME
from prefect.states import Cancelled, Crashed

from storage.lock import only_writer

FORGET_AFTER_SECONDS = 30 * 24 * 3600.0
AT_WORK = (StateType.PENDING, StateType.RUNNING, StateType.CANCELLING)
NOBODY: Mapping[str, str] = MappingProxyType({})
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


def read_registry() -> tuple[list[UUID], list[UUID]]:
    """Return the runs of this machine whose process lives, and those whose process has died."""
    folder = _registry()
    living: list[UUID] = []
    dead: list[UUID] = []
    with only_writer(folder):
        for path in folder.iterdir():
            with contextlib.suppress(ValueError, FileNotFoundError), open(path) as file:
                run = UUID(path.name)
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    dead.append(run)
                except BlockingIOError:
                    living.append(run)
    return living, dead


async def mark_dead_runs(
    message: str = f"Its process ended without a word. {GO_ON}", workers: Mapping[str, str] = NOBODY
) -> list[str]:
    """Mark the runs of this machine whose process has died, with all that they were doing; return their names.

    Args:
        message: What their state is to say.
        workers: Workers of this machine that have ended, and their pools. A run that a worker took and that had no
            process yet, or none that had begun to work, has no lock file: it died with the last worker of its pool.
    """
    living, dead = read_registry()
    names: list[str] = []
    if not dead and not workers:
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
            names += await _mark(client, run, message)
            path.unlink(missing_ok=True)
        for run in await _left_by(client, workers):
            if run.id not in living:
                names += await _mark(client, run, message)
    return names


async def _left_by(client: PrefectClient, ended: Mapping[str, str]) -> list[FlowRun]:
    """Return the runs at work in pools of which no worker is left, here or on another machine."""
    left: list[FlowRun] = []
    at_work = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(AT_WORK))))
    for pool in set(ended.values()):
        with contextlib.suppress(ObjectNotFound):  # on a server to which nothing was applied yet
            await client.read_work_pool(pool)
            others = [
                worker
                for worker in await client.read_workers_for_work_pool(pool)
                if worker.name not in ended and str(getattr(worker.status, "value", worker.status)) == "ONLINE"
            ]
            if not others:
                named = WorkPoolFilter(name=WorkPoolFilterName(any_=[pool]))
                left += await client.read_flow_runs(flow_run_filter=at_work, work_pool_filter=named)
    return left


async def _mark(client: PrefectClient, run: FlowRun, message: str) -> list[str]:
    names = []
    if run.state is not None and run.state.type in AT_WORK:
        ended: State[Any] = (Cancelled if run.state.is_cancelling() else Crashed)(message=message)
        await client.set_flow_run_state(run.id, ended, force=True)
        names.append(run.name)
    await _mark_tasks(client, run.id, message)
    return names


async def _mark_tasks(client: PrefectClient, run_id: UUID, message: str) -> None:
    tasks = await client.read_task_runs(
        flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run_id])),
        task_run_filter=TaskRunFilter(state=TaskRunFilterState(type=TaskRunFilterStateType(any_=list(AT_WORK)))),
    )
    for task in tasks:
        await client.set_task_run_state(task.id, Crashed(message=message), force=True)
