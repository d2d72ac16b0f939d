"""Which runs have a process: each holds a lock file, which the operating system drops however the process ends.

Prefect keeps the last state that a run reported: a run whose process was killed stays Running for ever. The next
command on this machine finds the lock files that no process holds, and marks their runs.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, TaskRunFilter
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_HOME
from prefect.states import Cancelled, Crashed

from storage.lock import held_in_turn, if_free, only_holder, only_writer
from tasks.checks import HOLDS_A_SLOT, online_workers, read_runs
from tasks.policies import run_logger

FORGET_AFTER_SECONDS = 30 * 24 * 3600.0
NOBODY: Mapping[str, str] = MappingProxyType({})
GO_ON = "Start it again: it continues where it stopped."
SILENT = "No sign of life"
"""How the states begin that are set because a run was silent; a run that lives takes them back."""


def _registry() -> Path:
    folder = Path(PREFECT_HOME.value()) / "runs-at-work"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def known_to_live(run: UUID) -> AbstractAsyncContextManager[None]:
    """Hold the lock file of a run for the duration of the block; an earlier process of the run is waited for."""
    folder = _registry()

    @contextmanager
    def lock() -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            with only_writer(folder):  # a file that is new and not yet locked would look like that of a dead run
                stack.enter_context(only_holder(folder / str(run), "this run is still held by", remove=True))
            yield

    return held_in_turn(lock, run_logger().warning)


def read_registry() -> tuple[list[UUID], list[UUID]]:
    """Return the runs of this machine whose process lives, and those whose process has died."""
    folder = _registry()
    living: list[UUID] = []
    dead: list[UUID] = []
    with only_writer(folder):
        for path in folder.iterdir():
            with contextlib.suppress(ValueError), if_free(path) as free:
                (dead if free else living).append(UUID(path.name))
    return living, dead


async def mark_dead_runs(
    message: str = f"The run's process was killed, or it crashed. {GO_ON}", workers: Mapping[str, str] = NOBODY
) -> list[str]:
    """Mark the runs of this machine whose process has died, and their tasks; say what became of each.

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
            with if_free(path) as free, contextlib.suppress(ObjectNotFound, FileNotFoundError):
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
    """Return the runs at work in pools that have no worker left, here or on another machine."""
    left: list[FlowRun] = []
    for pool in set(ended.values()):
        with contextlib.suppress(ObjectNotFound):  # on a server to which nothing was applied yet
            await client.read_work_pool(pool)
            if not set(await online_workers(client, pool)) - set(ended):
                left += await read_runs(client, HOLDS_A_SLOT, pool)
    return left


async def _mark(client: PrefectClient, run: FlowRun, message: str) -> list[str]:
    names = []
    # A run that waits in its process for an answer is paused; one that is suspended has no process, and is resumed.
    waits = run.state is not None and run.state.is_paused() and not run.state.state_details.pause_reschedule
    if run.state is not None and (run.state.type in HOLDS_A_SLOT or waits):
        ended: State[Any] = (Cancelled if run.state.is_cancelling() else Crashed)(message=message)
        await client.set_flow_run_state(run.id, ended, force=True)
        names.append(f"{run.name} is marked {ended.name}")
    at_work = await client.read_task_runs(
        flow_run_filter=FlowRunFilter.model_validate({"id": {"any_": [run.id]}}),
        task_run_filter=TaskRunFilter.model_validate({"state": {"type": {"any_": list(HOLDS_A_SLOT)}}}),
    )
    for task in at_work:
        await client.set_task_run_state(task.id, Crashed(message=message), force=True)
    return names
