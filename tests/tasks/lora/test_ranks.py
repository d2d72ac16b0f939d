"""Two processes on this machine train as one, over the ring of ``mlx.launch``."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from storage.lock import only_writer
from tasks.lora.display import TERM_COLUMNS
from tasks.lora.recipe import TERMS, Recipe
from tests.events import parse_event
from tests.tasks.lora.running import rows, specify, state_of, train_here
from tests.tasks.lora.tiny_model import tiny_recipe

WANDB = """
import os
def init(**fields):
    with open(os.environ["WANDB_RUNS"], "a") as runs:
        print(fields["name"], file=runs)
def log(values, step):
    pass
"""
"""A Weights & Biases that only notes which runs were begun."""


def free_ports() -> int:
    """Return the first of two neighbouring ports that no other process listens on."""
    while True:
        port = random.SystemRandom().randrange(20_000, 30_000)
        with socket.socket() as first, socket.socket() as second, suppress(OSError):
            first.bind(("127.0.0.1", port))
            second.bind(("127.0.0.1", port + 1))
            return port


def command(run: Path, mixture: Path, recipe: Recipe, module: str) -> list[str]:
    launcher = str(Path(sys.executable).with_name("mlx.launch"))
    options = ["--backend", "ring", "-n", "2", "--starting-port", str(free_ports())]
    return [launcher, *options, "--", sys.executable, "-m", module, specify(run, mixture, recipe)[-1]]


def launch(started: list[str]) -> str:
    done = subprocess.run(started, capture_output=True, text=True, timeout=300, check=False)
    return done.stdout + done.stderr


def losses(run: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    names = ("ce", "distrust", "grad_norm", "valid_ce", "valid_ce_low", "valid_ce_high", "tokens", *TERM_COLUMNS)
    return np.array([[row[name] or 0.0 for name in names] for kind in ("train", "valid") for row in rows(run, kind)])


ALONE = pytest.param(0.0, id="alone", marks=pytest.mark.drill)  # the terms are added to what it does


@pytest.mark.parametrize("weight", [ALONE, pytest.param(0.5, id="with terms")])
def test_two_processes_are_one_with_the_doubled_batch(
    base: Path, taught_mixture: Path, tmp_path: Path, weight: float
) -> None:
    one, two, mixture = tmp_path / "runs" / "one", tmp_path / "runs" / "two", taught_mixture
    terms = {f"{term}_weight": weight for term in TERMS} | {"consistency_rows": 1}
    doubled = tiny_recipe(base, batch_size=4, max_steps=3, report_every=1, val_batches=-1, **terms)
    train_here(one, mixture, doubled)
    halved = doubled.model_copy(update={"batch_size": 2})
    output = launch(command(two, mixture, halved, "tasks.lora.together"))  # the name of before
    assert '"event": "result"' in output, output
    assert len(losses(one)) == 3 + 2
    assert np.allclose(losses(one), losses(two), rtol=2e-4)
    adapters = [mx.load(str(run / "checkpoint-3" / "adapters.safetensors")) for run in (one, two)]
    assert all(bool(mx.allclose(adapters[0][name], adapters[1][name], rtol=1e-2, atol=1e-4)) for name in adapters[0])
    assert state_of(two, 3)["processes"] == 2
    with pytest.raises(ValueError, match="trained by 2 processes together, now there are 1"):
        train_here(two, mixture, halved.model_copy(update={"max_steps": 8}))


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
    started = command(runs / "run", mixture, recipe, "tasks.lora.together")
    streams: Any = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with only_writer(runs):
        pair = subprocess.Popen(started, text=True, env=environment, **streams)
        assert pair.stdout is not None
        first = parse_event(pair.stdout.readline())
        assert str(first["message"]).startswith("Another training runs in"), first
        assert not (runs / "run").exists()
    output = pair.stdout.read()
    pair.stdout.close()
    assert pair.wait(60) == 0, output
    assert (tmp_path / "called").read_text().split() == ["awake", "awake"]
    assert (tmp_path / "tracked").read_text().split() == ["run"], "one run is tracked, not one for each process"
    assert output.count("Memory: ") == 1 and output.count("Training complete!") == 1
