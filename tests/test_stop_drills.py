"""Every stage is cancelled, told to end and robbed of its worker in its midst, and loses nothing by it."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stages import STAGES, Stage
from tests.station import Station, are_alive, families_of, processes_of, running_station, until

pytestmark = [pytest.mark.drill, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Station]:
    # A scoring that is stopped five times must not have come to its end by then.
    with running_station(tmp_path_factory.mktemp("prefect"), SLOW_SIGNAL_SECONDS="1.5") as running:
        yield running


def begin(station: Station, stage: Stage, store: Path) -> str:
    """Start a run and wait for a moment in the midst of its work; return its id."""
    under_way = stage.watch(store)
    run = station.start_run(stage.flow, stage.parameters(store) | {"store": str(store)})
    until(under_way)
    time.sleep(random.uniform(0.0, 1.0))
    return run


def check_left_in_order(station: Station, stage: Stage, store: Path) -> None:
    """Wait for everybody to be gone who worked for the run."""
    until(lambda: not station.flow_processes(), 40)
    if stage.child:
        until(lambda: not processes_of(str(store / stage.child)), 40)


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_a_stage_that_is_stopped_in_every_way_makes_what_it_would_have_made(
    stage: Stage, station: Station, tmp_path: Path
) -> None:
    seed = int(os.environ.get("KILL_SEED", time.time_ns() % 1_000_000))
    print(f"KILL_SEED={seed}")
    random.seed(seed)
    store, straight = (stage.prepare(tmp_path / name) for name in ("stopped", "straight"))

    cancelled = begin(station, stage, store)
    station.cancel(cancelled)
    assert station.ended(cancelled) == "CANCELLED"
    check_left_in_order(station, stage, store)

    told = begin(station, stage, store)
    (process,) = station.flow_processes()
    os.kill(process, signal.SIGTERM)
    assert station.ended(told) == "CRASHED"
    check_left_in_order(station, stage, store)

    killed = begin(station, stage, store)
    (process,) = station.flow_processes()
    os.kill(process, signal.SIGKILL)
    assert station.ended(killed) == "CRASHED"
    check_left_in_order(station, stage, store)

    for end_worker in (station.stop_worker, station.kill_worker):
        orphan = begin(station, stage, store)
        processes = families_of(*station.flow_processes())
        end_worker()
        until(lambda left=processes: not are_alive(left), 130)
        station.start_worker()
        if station.state(orphan) != "CRASHED":
            time.sleep(7)
            station.ask_the_doctor()
        assert station.state(orphan) == "CRASHED"

    runs = []
    for place in (store, straight):
        parameters = stage.parameters(place) | stage.quick | {"store": str(place)}
        runs.append(station.start_run(stage.flow, parameters))
    assert [station.ended(run) for run in runs] == ["COMPLETED"] * 2
    assert stage.made(store) == stage.made(straight)
    assert not list(store.rglob(".tmp-*")), "nothing half-written lies about"
