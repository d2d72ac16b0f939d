"""A training under a real server and worker, and what can happen to it: cancelled, killed, its server lost."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import mlx.core as mx
import pytest

from deployments import server
from storage.checkpoint import list_checkpoints
from storage.manifest import read_manifest
from tasks.lora.recipe import Recipe
from tasks.lora.trainer import train
from tests.tasks.lora.tiny_model import seal_mixture, tiny_recipe, write_base, write_mixture

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(300)]

ROOT = Path(__file__).resolve().parent.parent
STEPS = 60
SLOW, QUICK = 0.4, 0.05
"""Seconds of pause after each of a step's two micro-batches."""


def until(found: Callable[[], Any], seconds: float = 90.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s"
        time.sleep(0.1)
    return value


class Drill:
    """A server with one worker of the training pool, and one run of a tiny model on it."""

    def __init__(self, store: Path, recipe: Recipe) -> None:
        self.store, self.recipe = store, recipe
        self.run = store / "runs" / "drill"
        self.port = server.free_port(0)
        self.server = server.start_server(self.port)
        self._post("work_pools/", {"name": "mac-train", "type": "process", "concurrency_limit": 1})
        flow = self._post("flows/", {"name": "train-adapter"})
        deployment = {
            "name": "train-adapter",
            "flow_id": flow["id"],
            "work_pool_name": "mac-train",
            "entrypoint": "flows.train_adapter.train_adapter",
            "pull_steps": [{"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}],
            "enforce_parameter_schema": False,
        }
        self._deployment = self._post("deployments/", deployment)["id"]
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "mac-train", "--type", "process"]
        environment = server.client_environment(self.port) | {"PREFECT_WORKER_QUERY_SECONDS": "2"}
        self.worker = server.spawn("worker-drill", command, environment)

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        answer = httpx.post(f"{server.api_url(self.port)}/{path}", json=body, timeout=30)
        answer.raise_for_status()
        return answer.json()

    def start(self, pause: float) -> str:
        """Start a flow run of the deployment and wait for its first new step; return its id."""
        before = self.step()
        fields = self.recipe.model_dump(mode="json") | {"thermal_throttle": pause}
        parameters = fields | {"store": str(self.store), "mixture": "tiny", "run": "drill"}
        run = self._post(f"deployments/{self._deployment}/create_flow_run", {"parameters": parameters})
        until(lambda: self.step() > before + 1)
        return str(run["id"])

    def step(self) -> int:
        """The newest step that the run's log tells of."""
        log = self.run / "training.log"
        steps = re.findall(r"^Training: .*? (\d+)/", log.read_text("utf-8"), re.MULTILINE) if log.is_file() else []
        return max(map(int, steps), default=0)

    def cancel(self, flow_run: str) -> None:
        """Do what the UI's cancel button does."""
        self._post(f"flow_runs/{flow_run}/set_state", {"state": {"type": "CANCELLING"}})

    def state(self, flow_run: str) -> str:
        answer = httpx.get(f"{server.api_url(self.port)}/flow_runs/{flow_run}", timeout=30)
        return str(answer.json()["state"]["type"])

    def ended(self, flow_run: str) -> str:
        return str(
            until(lambda: (s := self.state(flow_run)) not in ("SCHEDULED", "PENDING", "RUNNING", "CANCELLING") and s)
        )

    def trainers(self) -> list[tuple[int, int]]:
        """Process and parent ids of this run's trainers."""
        listing = subprocess.run(
            ["ps", "-ww", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True
        ).stdout
        rows = [line.split(None, 2) for line in listing.splitlines() if str(self.run / "train.json") in line]
        return [(int(pid), int(parent)) for pid, parent, _ in rows]

    def checkpoints(self) -> list[int]:
        return [step for step, _ in list_checkpoints(self.run)]

    def stop(self) -> None:
        for name in ("worker-drill", "server"):
            server.stop(name)
        for process in (self.worker, self.server):
            with contextlib.suppress(ChildProcessError):
                process.wait()


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
    os.killpg(drill.server.pid, signal.SIGKILL)
    drill.server.wait()
    until(lambda: (drill.run / "result.json").is_file())
    drill.server = server.start_server(drill.port)
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
