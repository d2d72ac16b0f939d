"""Two processes on this machine train as one, over the ring of ``mlx.launch``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pyarrow.parquet as pq
import pytest

from storage.events import parse_event
from storage.lock import only_writer
from storage.manifest import digest_of
from tasks.lora.ranks import Ranks
from tasks.lora.recipe import Recipe
from tasks.lora.trainer import train
from tests.tasks.lora.test_trainer import Events
from tests.tasks.lora.tiny_model import tiny_recipe

DIGEST = digest_of("tiny")


WANDB = """
import os
def init(**fields):
    with open(os.environ["WANDB_RUNS"], "a") as runs:
        print(fields["name"], file=runs)
def log(values, step):
    pass
"""
"""A Weights & Biases that only notes which runs were begun."""


def command(place: Path, run: Path, mixture: Path, recipe: Recipe | dict[str, Any], port: int) -> list[str]:
    specification = {
        "run_folder": str(run),
        "balanced_folder": str(mixture),
        "mixture_digest": DIGEST,
        "recipe": recipe if isinstance(recipe, dict) else recipe.model_dump(mode="json"),
    }
    path = place / "together.json"
    path.write_text(json.dumps(specification), "utf-8")
    launcher = str(Path(sys.executable).with_name("mlx.launch"))
    options = ["--backend", "ring", "-n", "2", "--starting-port", str(port)]
    return [launcher, *options, "--", sys.executable, "-m", "tasks.lora.together", str(path)]


def launch(place: Path, run: Path, mixture: Path, recipe: Recipe | dict[str, Any], port: int) -> str:
    started = command(place, run, mixture, recipe, port)
    done = subprocess.run(started, capture_output=True, text=True, timeout=300, check=False)
    return done.stdout + done.stderr


def losses(run: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    rows = pq.read_table(run / "metrics.parquet").to_pylist()
    names = ("ce", "distrust", "grad_norm", "valid_ce", "valid_ce_low", "valid_ce_high", "tokens")
    return np.array([[row[name] or 0.0 for name in names] for row in rows])


def test_two_processes_are_one_with_the_doubled_batch(base: Path, mixture: Path, tmp_path: Path) -> None:
    doubled = tiny_recipe(base, batch_size=4, report_every=1, val_batches=-1)
    train(tmp_path / "one", mixture, DIGEST, doubled, Events())
    halved = doubled.model_copy(update={"batch_size": 2})
    told = launch(tmp_path, tmp_path / "two", mixture, halved, 34120)
    assert '"event": "result"' in told, told
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == 6 + 3
    assert np.allclose(one, two, rtol=2e-4)
    adapters = [mx.load(str(tmp_path / name / "checkpoint-6" / "adapters.safetensors")) for name in ("one", "two")]
    assert all(bool(mx.allclose(adapters[0][name], adapters[1][name], rtol=1e-2, atol=1e-4)) for name in adapters[0])
    state = json.loads((tmp_path / "two" / "checkpoint-6" / "state.json").read_text("utf-8"))
    assert state["processes"] == 2
    with pytest.raises(ValueError, match="trained by 2 processes together, now there are 1"):
        train(tmp_path / "two", mixture, DIGEST, halved.model_copy(update={"max_steps": 8}), Events())


@pytest.mark.drill
def test_those_that_train_together_wait_their_turn_keep_their_machines_awake_and_are_one_run(
    base: Path, mixture: Path, tmp_path: Path
) -> None:
    programs, runs = tmp_path / "bin", tmp_path / "runs"
    programs.mkdir()
    (programs / "caffeinate").write_text(f"#!/bin/sh\necho awake >> {tmp_path}/called\nexec sleep 600\n")
    (programs / "caffeinate").chmod(0o755)
    (programs / "wandb.py").write_text(WANDB)
    environment = os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    environment |= {"PYTHONPATH": str(programs), "WANDB_RUNS": str(tmp_path / "tracked")}
    recipe = tiny_recipe(base, max_steps=1, val_batches=0, report_to="wandb")
    started = command(tmp_path, runs / "run", mixture, recipe, 34130)
    with only_writer(runs):
        pair = subprocess.Popen(
            started,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        assert pair.stdout is not None
        first = parse_event(pair.stdout.readline())
        assert str(first["message"]).startswith("Another training runs in"), first
        assert not (runs / "run").exists()
    told = pair.stdout.read()
    pair.stdout.close()
    assert pair.wait(60) == 0, told
    assert (tmp_path / "called").read_text().split() == ["awake", "awake"]
    assert (tmp_path / "tracked").read_text().split() == ["run"], "one run is tracked, not one for each process"
    assert told.count("Memory: ") == 1 and told.count("Training complete!") == 1


def test_faults_of_a_recipe_are_told_to_those_that_train_together(mixture: Path, tmp_path: Path) -> None:
    told = launch(tmp_path, tmp_path / "run", mixture, {"model": "x", "alpha": 5}, 34140)
    assert "ParameterError" in told and "the recipe has 1 faults: alpha" in told
    assert "Traceback" not in told


def test_a_process_alone_sends_nothing() -> None:
    alone = Ranks.join()
    assert (alone.rank, alone.size, alone.leads) == (0, 1, True)
    values = mx.array([1.0, 2.0])
    assert alone.total(values) is values
    assert alone.count(3) == 3
    alone.require_same({"checkpoint": 4})
