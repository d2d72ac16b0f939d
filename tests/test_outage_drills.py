"""Every stage is at work when the server goes away for a minute, and when the whole machine shuts down."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from storage.checkpoint import damaged_files, list_checkpoints
from tests.stages import STAGES
from tests.station import Station, are_alive, running_station, send, until
from tests.test_download_drills import check_whole, serve_books

pytestmark = [pytest.mark.drill, pytest.mark.timeout(1200)]

AWAY_SECONDS = 60.0
GRACE_SECONDS = 30.0
"""How long a machine that shuts down waits for those that it has told to end."""
Made = dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Station]:
    with running_station(tmp_path_factory.mktemp("prefect"), slots=12, SLOW_SIGNAL_SECONDS="0") as running:
        yield running


@pytest.fixture(scope="module")
def straight(station: Station, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """What every stage makes that nothing happens to."""
    stores = prepare(tmp_path_factory.mktemp("straight"))
    return finish(station, stores)


def prepare(folder: Path) -> dict[str, Path]:
    return {name: stage.prepare(folder / name) for name, stage in STAGES.items()}


def finish(station: Station, stores: dict[str, Path]) -> Made:
    """Let every stage come to its end in a hurry; return what it made."""
    runs = {
        name: station.start_run(name, STAGES[name].parameters(store) | STAGES[name].quick | {"store": str(store)})
        for name, store in stores.items()
    }
    ends = {name: station.ended(run) for name, run in runs.items()}
    assert ends == dict.fromkeys(runs, "COMPLETED")
    return {name: STAGES[name].made(store) for name, store in stores.items()}


@contextlib.contextmanager
def all_at_work(station: Station, stores: dict[str, Path]) -> Iterator[dict[str, str]]:
    """Start a run of every stage and stop its clock in the midst of its work; it goes on when the block ends.

    So that all are in the midst of it at the same moment: a quick stage does not end while a slow one begins.
    """
    watches = {name: STAGES[name].watch(store) for name, store in stores.items()}
    runs = {
        name: station.start_run(name, STAGES[name].parameters(store) | STAGES[name].long | {"store": str(store)})
        for name, store in stores.items()
    }
    stopped: dict[str, list[int]] = {}

    def all_stopped() -> bool:
        for name in runs.keys() - stopped.keys():
            if watches[name]() and station.state(runs[name]) == "RUNNING":
                stopped[name] = station.processes_at(runs[name])
                send(stopped[name], signal.SIGSTOP)
                assert stopped[name], f"no process of {name} was found"
        return len(stopped) == len(runs)

    try:
        until(all_stopped, rest=0.0)  # a stage must not come to its end meanwhile
        yield runs
    finally:
        for processes in stopped.values():
            send(processes, signal.SIGCONT)


async def test_a_server_that_is_away_for_a_minute_is_missed_by_nobody(
    station: Station, straight: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLOW_SIGNAL_SECONDS", "12")  # a scoring of more than a minute
    async with serve_books(tmp_path, monkeypatch) as archive:
        await asyncio.to_thread(station.restart_worker)
        parameters = {"sources": ["books"], "rate_limit": 4.0, "catalogue": str(tmp_path / "catalogue.toml")}
        download = await asyncio.to_thread(station.start_run, "download-corpus", parameters)
        stores = prepare(tmp_path)
        runs = await asyncio.to_thread(lose_server, station, stores, lambda: archive.requests.total() > 20)
        runs["download-corpus"] = download
        assert station.worker.poll() is None, "the worker was not restarted"
        ends = {name: await asyncio.to_thread(station.ended, run) for name, run in runs.items()}
        assert ends == dict.fromkeys(runs, "COMPLETED")
        check_whole(tmp_path / "store")
        assert set(archive.requests.values()) == {1}, "nothing is asked twice"
    assert {name: STAGES[name].made(store) for name, store in stores.items()} == straight
    assert not list(tmp_path.rglob(".tmp-*"))


def lose_server(station: Station, stores: dict[str, Path], downloading: Callable[[], bool]) -> dict[str, str]:
    """Kill the server while all stages are at work, and start it again a minute later; return their runs."""
    with all_at_work(station, stores) as runs:
        until(downloading)
        station.kill_server()
    time.sleep(AWAY_SECONDS)
    station.start_server()
    return runs


def test_a_machine_that_shuts_down_goes_on_with_every_stage(
    station: Station, straight: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLOW_SIGNAL_SECONDS", "2")
    station.restart_worker()
    stores = prepare(tmp_path)
    with all_at_work(station, stores) as runs:
        everybody = station.everybody()
        send(everybody, signal.SIGTERM)
    with contextlib.suppress(AssertionError):  # who is still there then is killed, as a machine does
        until(lambda: not are_alive(everybody), GRACE_SECONDS)
    send(everybody, signal.SIGKILL)
    station.stop()
    trained = list_checkpoints(stores["train-adapter"] / "runs" / "drill")
    assert [damaged_files(folder) for _, folder in trained] == [[]], "the training has saved where it was"

    monkeypatch.setenv("SLOW_SIGNAL_SECONDS", "0")
    station.start_server()
    station.start_worker()
    station.ask_the_doctor()
    assert {name: station.state(run) for name, run in runs.items()} == dict.fromkeys(runs, "CRASHED")
    assert finish(station, stores) == straight
    assert not list(tmp_path.rglob(".tmp-*"))
