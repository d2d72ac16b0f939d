"""Two runs of one model at once, and flows of several parts that are cancelled in the UI."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flows.test_stages import KINDS, write_documents
from tests.stages import SLOW_SIGNAL, STAGES
from tests.station import Station, processes_of, running_station, until

pytestmark = [pytest.mark.drill, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Station]:
    with running_station(tmp_path_factory.mktemp("prefect")) as running:
        yield running


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


def test_two_trainings_of_one_run_at_once_train_once(station: Station, tmp_path: Path) -> None:
    stage = STAGES["train-adapter"]
    store, straight = (stage.prepare(tmp_path / name) for name in ("twice", "straight"))
    both = [station.start_run(stage.flow, stage.parameters(store) | {"store": str(store)}) for _ in range(2)]
    assert [station.ended(run) for run in both] == ["COMPLETED"] * 2
    waited = ["is writing" in station.log(run) for run in both]
    assert sorted(waited) == [False, True], "one waited for the other"
    log = (store / "runs" / "drill" / "training.log").read_text("utf-8")
    assert log.count("Starting training for") == 1 and "Resuming" not in log, "and found its work done"
    parameters = stage.parameters(straight) | stage.quick | {"store": str(straight)}
    assert station.ended(station.start_run(stage.flow, parameters)) == "COMPLETED"
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


def test_a_cancelled_check_of_the_setup_ends_its_child_and_is_done_later(station: Station, tmp_path: Path) -> None:
    wanted = {"store": str(tmp_path)}
    cancelled = station.start_run("check-setup", wanted)
    child = str(tmp_path / "check-setup" / "check.json")
    until(lambda: processes_of(child))
    station.cancel(cancelled)
    assert station.ended(cancelled) == "CANCELLED"
    until(lambda: not station.flow_processes() and not processes_of(child), 40)
    assert station.ended(station.start_run("check-setup", wanted)) == "COMPLETED"
