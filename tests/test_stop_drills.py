"""Every stage is cancelled, told to end and robbed of its worker in the midst of its work, and loses nothing by it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments import server
from tests.flows.test_stages import KINDS, write_documents
from tests.stages import SLOW_SIGNAL, STAGES, Stage
from tests.station import ROOT, Station, processes_of, until

pytestmark = [pytest.mark.drill, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Station]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PREFECT_HOME", str(tmp_path_factory.mktemp("prefect")))
        environment.setenv("DISTRUST_BLOCKS", "none-saved")
        running = Station("data", slots=2)
        yield running
        running.stop()


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


def ask_the_doctor(station: Station) -> None:
    """Mark the runs as crashed of which nothing is heard any more."""
    doctor = [sys.executable, "-m", "flows", "check-setup", "--fix", "--silent-minutes", "0.1"]
    subprocess.run(doctor, cwd=ROOT, env=server.client_environment(station.port), capture_output=True, check=False)


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

    orphan = begin(station, stage, store)
    station.stop_worker()
    check_left_in_order(station, stage, store)
    station.start_worker()
    if station.state(orphan) != "CRASHED":
        time.sleep(7)
        ask_the_doctor(station)
    assert station.state(orphan) == "CRASHED"

    runs = []
    for place in (store, straight):
        parameters = stage.parameters(place) | stage.quick | {"store": str(place)}
        runs.append(station.start_run(stage.flow, parameters))
    assert [station.ended(run) for run in runs] == ["COMPLETED"] * 2
    assert stage.made(store) == stage.made(straight)
    assert not list(store.rglob(".tmp-*")), "nothing half-written lies about"


def test_two_evaluations_at_once_and_a_server_that_dies_make_one_report(station: Station, tmp_path: Path) -> None:
    stage = STAGES["evaluate-adapter"]
    store, straight = (stage.prepare(tmp_path / name) for name in ("twice", "straight"))
    short = {"run": "first", "max_new_tokens": 8, "perplexity_samples": 4, "eval_batch_size": 4}
    under_way = stage.watch(store)
    both = [station.start_run(stage.flow, short | {"store": str(store)}) for _ in range(2)]
    until(under_way)
    # Prefect's client asks a server that is away again only where it has reached it before: a run that is just
    # starting ends as Crashed (docs/log.md).
    until(lambda: all(station.state(run) in ("RUNNING", "COMPLETED") for run in both))
    station.kill_server()
    time.sleep(3)
    station.start_server()
    assert [station.ended(run) for run in both] == ["COMPLETED"] * 2
    assert station.ended(station.start_run(stage.flow, short | {"store": str(straight)})) == "COMPLETED"
    assert stage.made(store) == stage.made(straight)


def test_a_cancelled_comparison_ends_its_trainer_and_goes_on_later(station: Station, tmp_path: Path) -> None:
    stage = STAGES["train-adapter"]
    store = stage.prepare(tmp_path)
    wanted = stage.parameters(store) | {"store": str(store), "alphas": [2.5, 2.9]}
    cancelled = station.start_run("compare-recipes", wanted)
    until(lambda: list(store.glob("runs/*/training.log")))
    station.cancel(cancelled)
    assert station.ended(cancelled) == "CANCELLED"
    until(lambda: not processes_of(str(store / "runs")), 40)
    assert set(station.parts(cancelled).values()) <= {"CANCELLED", "CRASHED", "COMPLETED"}, "nothing is shown at work"
    assert station.ended(station.start_run("compare-recipes", wanted | stage.quick)) == "COMPLETED"
    assert len(list(store.glob("runs/*/result.json"))) == 2


def test_a_cancelled_pipeline_leaves_none_of_its_stages_at_work(
    station: Station, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLOW_SIGNAL_SECONDS", "10")
    station.restart_worker()
    catalogue = write_documents(tmp_path / "documents")
    store = tmp_path / "store"
    wanted = {"store": str(store), "catalogue": str(catalogue), "sources": list(KINDS), "signal": SLOW_SIGNAL}
    cancelled = station.start_run("corpus-to-model", wanted)
    until(lambda: station.parts(cancelled).get("score-corpus") == "RUNNING")
    station.cancel(cancelled)
    assert station.ended(cancelled) == "CANCELLED"
    until(lambda: not station.flow_processes(), 40)
    parts = station.parts(cancelled)
    assert set(parts) == {"download-corpus", "score-corpus"}
    assert set(parts.values()) <= {"CANCELLED", "CRASHED", "COMPLETED"}, "nothing is shown at work"
