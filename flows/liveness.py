"""Which runs have a process: each holds a lock file, which the operating system drops however the process ends.

Prefect knows of a run only what it was told last: one whose process was killed stays Running for ever. Whoever starts
next on this machine finds the lock files that nobody holds, and marks their runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
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
GO_ON = "Start it again: it continues where it stopped."
SILENT = "No sign of life"
"""How the states begin that are set because nothing was heard of a run; a run that lives takes them back."""
POLL_SECONDS = 0.5


def _registry() -> Path:
    folder = Path(PREFECT_HOME.value()) / "runs-at-work"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@asynccontextmanager
async def known_to_live(run: UUID) -> AsyncIterator[None]:
    """Hold the lock file of a run for the duration of the block; an earlier process of the run is waited for."""
    folder = _registry()
    path = folder / str(run)
    while True:
        with only_writer(folder):  # files come and go under this lock alone, and nobody waits for another one under it
            file = open(path, "a")  # noqa: SIM115 - held for the whole block
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                file.close()
        await asyncio.sleep(POLL_SECONDS)
    try:
        yield
    finally:
        with only_writer(folder):
            path.unlink(missing_ok=True)
        file.close()


@contextmanager
def held_by_nobody(path: Path) -> Iterator[bool]:
    """Tell whether a lock file is there and nobody holds it; nobody can take it for the duration of the block."""
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(open(path))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        except (FileNotFoundError, BlockingIOError):
            free = False
        yield free


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
    message: str = f"The run's process was killed, or it crashed. {GO_ON}", workers: Mapping[str, str] = NOBODY
) -> list[str]:
    """Mark the runs of this machine whose process has died, with all that they were doing; say what became of each.

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
            with held_by_nobody(path) as free, contextlib.suppress(ObjectNotFound, FileNotFoundError):
                if free and time.time() - path.stat().st_mtime > FORGET_AFTER_SECONDS:
                    path.unlink()  # the run of another server
                if free:
                    names += await _mark(client, await client.read_flow_run(run_id), message)
                    path.unlink()
        for run in await _left_by(client, workers):
            if run.id not in living:
                with contextlib.suppress(ObjectNotFound):
                    names += await _mark(client, run, f"{SILENT}: its worker is gone. {GO_ON}")
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
    # A run that waits in its process for an answer is paused; one that is suspended has no process, and is resumed.
    waits = run.state is not None and run.state.is_paused() and not run.state.state_details.pause_reschedule
    if run.state is not None and (run.state.type in AT_WORK or waits):
        ended: State[Any] = (Cancelled if run.state.is_cancelling() else Crashed)(message=message)
        await client.set_flow_run_state(run.id, ended, force=True)
        names.append(f"{run.name} is marked {ended.name}")
    await _mark_tasks(client, run.id, message)
    return names


async def _mark_tasks(client: PrefectClient, run_id: UUID, message: str) -> None:
    tasks = await client.read_task_runs(
        flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run_id])),
        task_run_filter=TaskRunFilter(state=TaskRunFilterState(type=TaskRunFilterStateType(any_=list(AT_WORK)))),
    )
    for task in tasks:
        await client.set_task_run_state(task.id, Crashed(message=message), force=True)
