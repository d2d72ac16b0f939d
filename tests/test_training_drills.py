"""A training under a real server and worker, and what can happen to it: cancelled, killed, its server lost."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import pytest

from storage.checkpoint import list_checkpoints
from storage.manifest import read_manifest
from tasks.lora.recipe import Recipe
from tasks.lora.trainer import train
from tests.station import Station, processes_of, until
from tests.tasks.lora.tiny_model import seal_mixture, tiny_recipe, write_base, write_mixture

pytestmark = [pytest.mark.drill, pytest.mark.timeout(1200)]

STEPS = 60
SLOW, QUICK = 0.4, 0.05
"""Seconds of pause after each of a step's two micro-batches."""


class Drill(Station):
    """A station and one run of a tiny model on it."""

    def __init__(self, store: Path, recipe: Recipe) -> None:
        super().__init__()
        self.store, self.recipe = store, recipe
        self.run = store / "runs" / "drill"

    def start(self, pause: float) -> str:
        """Start a flow run of the deployment and wait for its first new step; return its id."""
        before = self.step()
        fields = self.recipe.model_dump(mode="json") | {"thermal_throttle": pause}
        run = self.start_run("train-adapter", fields | {"store": str(self.store), "mixture": "tiny", "run": "drill"})
        until(lambda: self.step() > before + 1)
        return run

    def step(self) -> int:
        """The newest step that the run's log tells of."""
        log = self.run / "training.log"
        steps = re.findall(r"^Training: .*? (\d+)/", log.read_text("utf-8"), re.MULTILINE) if log.is_file() else []
        return max(map(int, steps), default=0)

    def trainers(self) -> list[tuple[int, int]]:
        """Process and parent ids of this run's trainers."""
        return processes_of(str(self.run / "train.json"))

    def checkpoints(self) -> list[int]:
        return [step for step, _ in list_checkpoints(self.run)]


@pytest.fixture
def drill(tmp_path: Path) -> Iterator[Drill]:
    base = write_base(tmp_path / "base")
    store = tmp_path / "store"
    seal_mixture(write_mixture(store / "balanced" / "tiny"))
    recipe = tiny_recipe(base, max_steps=STEPS, save_every=1000, eval_every=1000, report_every=1, lora_dropout=0.1)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
        environment.setenv("DISTRUST_BLOCKS", "none-saved")
        running = Drill(store, recipe)
        yield running
        running.stop()


def test_a_training_that_is_cancelled_killed_and_loses_its_server_ends_as_if_nothing_had_happened(
    drill: Drill, tmp_path: Path
) -> None:
    cancelled = drill.start(SLOW)
    drill.cancel(cancelled)
    assert drill.ended(cancelled) == "CANCELLED"
    assert until(lambda: not drill.trainers(), 25), "a cancelled training stops"
    assert drill.checkpoints() == [drill.step()], "and saves where it is"

    killed = drill.start(SLOW)
    ((_, flow_process),) = drill.trainers()
    os.kill(flow_process, signal.SIGKILL)
    assert drill.ended(killed) == "CRASHED"
    until(lambda: not drill.trainers(), 25)
    assert drill.checkpoints()[-1] == drill.step(), "a trainer whose parent died saves where it is"

    lost_from = drill.checkpoints()[-1]

    survivor = drill.start(QUICK)
    drill.kill_server()
    until(lambda: (drill.run / "result.json").is_file())
    drill.start_server()
    assert drill.ended(survivor) == "COMPLETED", "a server that was away hears of it later"

    log = (drill.run / "training.log").read_text("utf-8")
    assert log.count("Resuming from") == 2
    assert f"checkpoint-{lost_from} at step {lost_from}" in log.rsplit("Resuming from", 1)[1]
    assert_equals_uninterrupted(drill, tmp_path / "straight")


def assert_equals_uninterrupted(drill: Drill, straight: Path) -> None:
    manifest = read_manifest(drill.store / "balanced" / "tiny")
    assert manifest is not None
    mixture = drill.store / "balanced" / "tiny"
    train(straight, mixture, manifest.digest, drill.recipe, lambda event, **fields: None)
    for file in ("adapters.safetensors", "optimizer.safetensors"):
        expected = mx.load(str(straight / f"checkpoint-{STEPS}" / file))
        found = mx.load(str(drill.run / f"checkpoint-{STEPS}" / file))
        assert expected.keys() == found.keys()
        assert [name for name in expected if not bool(mx.array_equal(expected[name], found[name]))] == []
