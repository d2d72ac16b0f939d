"""Stages are cancelled, told to end, killed and robbed of their worker in their midst, and lose nothing by it."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from deployments.processes import is_alive
from tests.stages import SLOW_SIGNAL, STAGES, Stage
from tests.station import Station, families_of, processes_of, running_station, until

pytestmark = [pytest.mark.drill, pytest.mark.timeout(1200)]

WAYS = {"score-corpus": 2, "train-adapter": 4}
"""How many ways a stage is stopped in before it loses its worker: it works in its flow's process, or has a child."""
SEED = int(os.environ.get("KILL_SEED", time.time_ns() % 1_000_000))


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Station]:
    # A scoring that is stopped four times must not have come to its end by then.
    with running_station(tmp_path_factory.mktemp("prefect"), SLOW_SIGNAL_SECONDS="1.5") as running:
        yield running


class Victim:
    """A stage at work on a store, stopped in one way after another."""

    def __init__(self, station: Station, stage: Stage, store: Path) -> None:
        self.station, self.stage, self.store = station, stage, store

    def begin(self) -> str:
        """Start a run and wait for a moment in the midst of its work; return its id."""
        under_way = self.stage.watch(self.store)
        run = self.station.start_run(self.stage.flow, self.stage.parameters(self.store) | {"store": str(self.store)})
        until(under_way)
        time.sleep(random.uniform(0.0, 1.0))
        return run

    def check(self, run: str, state: str) -> None:
        """The run ends in this state, and everybody is gone who worked for it."""
        assert self.station.ended(run) == state
        until(lambda: not self.station.flow_processes(), 40)
        if self.stage.child:
            until(lambda: not processes_of(str(self.store / self.stage.child)), 40)

    def cancel(self) -> None:
        run = self.begin()
        self.station.cancel(run)
        self.check(run, "CANCELLED")

    def signal(self, sign: signal.Signals) -> None:
        run = self.begin()
        (process,) = self.station.flow_processes()
        os.kill(process, sign)
        self.check(run, "CRASHED")

    def lose_worker(self, *, killed: bool) -> None:
        run = self.begin()
        processes = families_of(*self.station.flow_processes())
        (self.station.kill_worker if killed else self.station.stop_worker)()
        until(lambda: not any(map(is_alive, processes)), 130)
        self.station.start_worker()
        if self.station.state(run) != "CRASHED":
            time.sleep(7)
            self.station.ask_the_doctor()
        assert self.station.state(run) == "CRASHED"


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_a_stage_that_is_stopped_and_then_done_twice_at_once_makes_what_it_would_have_made(
    stage: Stage, station: Station, tmp_path: Path
) -> None:
    print(f"KILL_SEED={SEED}")
    random.seed(SEED)
    store, straight = (stage.prepare(tmp_path / name) for name in ("stopped", "straight"))
    victim = Victim(station, stage, store)
    ways = [
        victim.cancel,
        partial(victim.signal, signal.SIGKILL),
        partial(victim.signal, signal.SIGTERM),
        partial(victim.lose_worker, killed=False),
    ]
    for stop in (*ways[: WAYS.get(stage.flow, 0)], partial(victim.lose_worker, killed=True)):
        stop()

    runs = []
    for place in (store, store, straight):
        parameters = stage.parameters(place) | stage.quick | {"store": str(place)}
        runs.append(station.start_run(stage.flow, parameters))
    assert [station.ended(run) for run in runs] == ["COMPLETED"] * 3
    assert stage.made(store) == stage.made(straight)
    assert not list(store.rglob(".tmp-*")), "nothing half-written is left"


def test_a_failed_shard_is_retried_in_the_ui(station: Station, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fails = tmp_path / "fails"
    fails.write_text("novels", "utf-8")
    monkeypatch.setenv("SLOW_SIGNAL_FAILS", str(fails))
    monkeypatch.setenv("SLOW_SIGNAL_SECONDS", "0")
    station.restart_worker()
    stage = STAGES["score-corpus"]
    store = stage.prepare(tmp_path)

    def written() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (store / "scored").rglob("shard-*")}

    run = station.start_run("score-corpus", {"store": str(store), "signal": SLOW_SIGNAL})
    assert station.ended(run) == "FAILED"
    until(lambda: "not to be scored yet" in "\n".join(station.log(run)))  # it is sent in batches
    failed = [name for name, state in station.task_states(run).items() if state == "FAILED"]
    assert failed and all("novels" in name for name in failed), failed
    before = written()

    fails.unlink()
    station.retry(run)
    until(lambda: station.state(run) != "FAILED")
    assert station.ended(run) == "COMPLETED"
    assert stage.made(store)
    again = {path.parent.name for path, moment in written().items() if before.get(path) != moment}
    assert again == {"novels"}, "what was scored is not scored again"
