"""A data stage and a training are at work when the server goes away, and when the whole machine shuts down."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.processes import is_alive
from storage.checkpoint import damaged_files, list_checkpoints
from tests.stages import STAGES
from tests.station import Station, running_station, send, until

pytestmark = [pytest.mark.drill, pytest.mark.timeout(1200)]

AT_WORK = ("score-corpus", "train-adapter")
AWAY_SECONDS = 45.0
GRACE_SECONDS = 30.0
"""How long a machine that shuts down waits for the processes that it has asked to end."""
Made = dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Station]:
    with running_station(tmp_path_factory.mktemp("prefect"), slots=4, SLOW_SIGNAL_SECONDS="0") as running:
        yield running


@pytest.fixture(scope="module")
def straight(station: Station, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """What each stage makes that nothing happens to."""
    return finish(station, prepare(tmp_path_factory.mktemp("straight")))


def prepare(folder: Path) -> dict[str, Path]:
    return {name: STAGES[name].prepare(folder / name) for name in AT_WORK}


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


def test_a_server_that_is_away_is_missed_by_nobody(
    station: Station, straight: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLOW_SIGNAL_SECONDS", "12")  # a scoring that outlasts the outage
    station.restart_worker()
    stores = prepare(tmp_path)
    with all_at_work(station, stores) as runs:
        station.kill_server()
    time.sleep(AWAY_SECONDS)
    station.start_server()
    assert station.worker.poll() is None, "the worker was not restarted"
    assert {name: station.ended(run) for name, run in runs.items()} == dict.fromkeys(runs, "COMPLETED")
    assert {name: STAGES[name].made(store) for name, store in stores.items()} == straight
    assert not list(tmp_path.rglob(".tmp-*"))


def test_a_machine_that_shuts_down_goes_on_with_every_stage(
    station: Station, straight: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLOW_SIGNAL_SECONDS", "2")
    station.restart_worker()
    stores = prepare(tmp_path)
    with all_at_work(station, stores) as runs:
        everybody = station.everybody()
        send(everybody, signal.SIGTERM)
    with contextlib.suppress(AssertionError):  # what is left then is killed, as a machine does
        until(lambda: not any(map(is_alive, everybody)), GRACE_SECONDS)
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
