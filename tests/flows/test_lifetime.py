"""Whatever ends or pauses a run in the UI ends its child within seconds, and what the UI shows then is true."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.context import FlowRunContext
from prefect.exceptions import Abort, CancelledRun, CrashedRun, ObjectNotFound
from prefect.settings import PREFECT_HOME

from deployments.processes import is_alive
from flows.lifetime import SILENT
from flows.liveness import mark_dead_runs
from flows.parameters import FlowParameters, takes
from tasks.policies import ROOT, run_child
from tests.flows.sleeping_child import Order, Slept
from tests.waiting import until

pytestmark = [pytest.mark.prefect, pytest.mark.usefixtures("prefect_server"), pytest.mark.timeout(120)]
ENDED = (Abort, CancelledRun, CrashedRun)
HEARD_SECONDS = 10.0


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs look at their state several times a second."""
    monkeypatch.setattr("flows.lifetime.POLL_SECONDS", 0.2)


class Sleep(FlowParameters):
    folder: str = ""
    seconds: float = 60.0


@flow(name="sleeper")
@takes(Sleep)
async def sleeper(parameters: Sleep) -> Any:
    """Sleep in a child."""
    order = Order(folder=parameters.folder, seconds=parameters.seconds)
    path = Path(parameters.folder) / "child.json"
    return await run_child("tests.flows.sleeping_child", order, path, lambda event: None, Slept)


@flow(name="whole")
@takes(Sleep)
async def whole(parameters: Sleep) -> Any:
    """Sleep in a part."""
    context = FlowRunContext.get()
    assert context is not None and context.flow_run is not None
    (Path(parameters.folder) / "whole").write_text(str(context.flow_run.id))
    return await sleeper(**parameters.model_dump())


async def sleeping(folder: Path) -> int:
    """Wait for the child; return its process id."""
    await until((folder / "pid").is_file)
    return int(await until((folder / "pid").read_text))


async def newest(client: PrefectClient, name: str) -> FlowRun:
    from prefect.client.schemas.filters import FlowFilter, FlowFilterName
    from prefect.client.schemas.sorting import FlowRunSort

    named = FlowFilter(name=FlowFilterName(any_=[name]))
    (run,) = await client.read_flow_runs(flow_filter=named, sort=FlowRunSort.START_TIME_DESC, limit=1)
    return run


async def suspend(client: PrefectClient, run: FlowRun) -> None:
    # What the dialog of the UI sends.
    details: Any = {"pause_reschedule": True, "pause_timeout": "2100-01-01T00:00:00Z"}
    state: State[Any] = State(type=StateType.PAUSED, name="Suspended", state_details=details)
    await client.set_flow_run_state(run.id, state, force=True)


def to(kind: StateType) -> Callable[[PrefectClient, FlowRun], Awaitable[Any]]:
    async def change(client: PrefectClient, run: FlowRun) -> None:
        await client.set_flow_run_state(run.id, State(type=kind), force=True)

    return change


async def delete(client: PrefectClient, run: FlowRun) -> None:
    await client.delete_flow_run(run.id)


def sent(sign: signal.Signals) -> Callable[[PrefectClient, FlowRun], Awaitable[Any]]:
    async def send(client: PrefectClient, run: FlowRun) -> None:
        os.kill(os.getpid(), sign)

    return send


WAYS: dict[str, tuple[Callable[[PrefectClient, FlowRun], Awaitable[Any]], str | None]] = {
    "suspended": (suspend, "CANCELLED"),  # no worker could resume what a command started
    "set to completed": (to(StateType.COMPLETED), "COMPLETED"),
    "deleted": (delete, None),
}
"""Further ways, which end a pipeline too, are below."""


@pytest.mark.parametrize(("end", "shown"), WAYS.values(), ids=WAYS)
async def test_what_ends_a_run_ends_its_child(end: Any, shown: str | None, tmp_path: Path) -> None:
    work = asyncio.ensure_future(sleeper(folder=str(tmp_path)))
    child = await sleeping(tmp_path)
    async with get_client() as client:
        run = await newest(client, "sleeper")
        await end(client, run)
        await until(lambda: not is_alive(child), HEARD_SECONDS)
        with pytest.raises(ENDED):
            await asyncio.wait_for(work, HEARD_SECONDS)
        assert (tmp_path / "saved").exists(), "the child had time to save"
        if shown is None:
            with pytest.raises(ObjectNotFound):
                await client.read_flow_run(run.id)
        else:
            assert (await client.read_flow_run(run.id)).state_type.value == shown


TOGETHER: dict[str, tuple[str, Any, str, str]] = {
    "the whole is cancelled": ("whole", to(StateType.CANCELLING), "CANCELLED", "CANCELLED"),
    "the part is cancelled": ("sleeper", to(StateType.CANCELLING), "CANCELLED", "CANCELLED"),
    "the part is suspended": ("sleeper", suspend, "CANCELLED", "CANCELLED"),
    "the part is set to failed": ("sleeper", to(StateType.FAILED), "CANCELLED", "FAILED"),
    "Ctrl-C": ("whole", sent(signal.SIGINT), "CANCELLED", "CANCELLED"),
    "SIGTERM": ("whole", sent(signal.SIGTERM), "CRASHED", "CANCELLED"),
}


@pytest.mark.parametrize(("which", "end", "shown", "part"), TOGETHER.values(), ids=TOGETHER)
async def test_a_pipeline_and_its_part_end_together(
    which: str, end: Any, shown: str, part: str, tmp_path: Path
) -> None:
    work = asyncio.ensure_future(whole(folder=str(tmp_path)))
    child = await sleeping(tmp_path)
    async with get_client() as client:
        await end(client, await newest(client, which))
        await until(lambda: not is_alive(child), HEARD_SECONDS)
        with pytest.raises(ENDED):
            await asyncio.wait_for(work, HEARD_SECONDS)
        assert (tmp_path / "saved").exists(), "the child had time to save"
        states = [(await newest(client, name)).state_type.value for name in ("whole", "sleeper")]
    assert states == [shown, part]


async def test_a_run_that_was_started_again_elsewhere_stops_here(tmp_path: Path) -> None:
    work = asyncio.ensure_future(sleeper(folder=str(tmp_path)))
    child = await sleeping(tmp_path)
    async with get_client() as client:
        run = await newest(client, "sleeper")
        again: State[Any] = State(type=StateType.SCHEDULED, name="Resuming")
        await client.set_flow_run_state(run.id, again, force=True)
        await until(lambda: not is_alive(child), HEARD_SECONDS)
        with pytest.raises(ENDED):
            await asyncio.wait_for(work, HEARD_SECONDS)
        assert (await client.read_flow_run(run.id)).state_type == StateType.SCHEDULED, "it is the other's by now"


async def test_a_run_that_was_taken_for_dead_goes_on_and_says_so(tmp_path: Path) -> None:
    work = asyncio.ensure_future(sleeper(folder=str(tmp_path), seconds=2.0))
    await sleeping(tmp_path)
    async with get_client() as client:
        run = await newest(client, "sleeper")
        dead: State[Any] = State(type=StateType.CRASHED, message=f"{SILENT}: no heartbeat for an hour.")
        await client.set_flow_run_state(run.id, dead, force=True)
        await work
        types = [state.type.value for state in await client.read_flow_run_states(run.id)]
    assert types[-3:] == ["CRASHED", "RUNNING", "COMPLETED"]
    assert not (tmp_path / "saved").exists()


async def test_a_run_whose_process_was_killed_is_marked_by_the_next_command(tmp_path: Path) -> None:
    code = f"import asyncio; from tests.flows.test_lifetime import whole; asyncio.run(whole(folder={str(tmp_path)!r}))"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment(), start_new_session=True)
    await sleeping(tmp_path)
    assert await mark_dead_runs() == [], "one that lives is left alone"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    async with get_client() as client:  # it waited for an answer, which no process hears any more
        paused: State[Any] = State(type=StateType.PAUSED)
        await client.set_flow_run_state((await newest(client, "sleeper")).id, paused, force=True)
    marked = await mark_dead_runs()
    async with get_client() as client:
        found = [await newest(client, name) for name in ("whole", "sleeper")]
    assert sorted(marked) == sorted(f"{run.name} is marked Crashed" for run in found)
    assert {run.state_type.value for run in found} == {"CRASHED"}
    assert await mark_dead_runs() == []


def environment() -> dict[str, str]:
    from prefect.settings import PREFECT_API_URL

    return {**os.environ, "PREFECT_API_URL": str(PREFECT_API_URL.value()), "PREFECT_HOME": str(PREFECT_HOME.value())}
