"""Two processes on this machine train as one, over the ring of ``mlx.launch``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pyarrow.parquet as pq
import pytest

from storage.manifest import digest_of
from tasks.lora.ranks import Ranks
from tasks.lora.recipe import Recipe
from tasks.lora.trainer import train
from tests.tasks.lora.test_trainer import Events
from tests.tasks.lora.tiny_model import tiny_recipe

DIGEST = digest_of("tiny")


def launch(place: Path, run: Path, mixture: Path, recipe: Recipe) -> None:
    specification = {
        "run_folder": str(run),
        "balanced_folder": str(mixture),
        "mixture_digest": DIGEST,
        "recipe": recipe.model_dump(mode="json"),
    }
    path = place / "together.json"
    path.write_text(json.dumps(specification), "utf-8")
    launcher = str(Path(sys.executable).with_name("mlx.launch"))
    work = [sys.executable, "-m", "tasks.lora.together", str(path)]
    done = subprocess.run(
        [launcher, "--backend", "ring", "-n", "2", "--starting-port", "34120", "--", *work],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def losses(run: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    rows = pq.read_table(run / "metrics.parquet").to_pylist()
    names = ("ce", "distrust", "grad_norm", "valid_ce", "valid_ce_low", "valid_ce_high", "tokens")
    return np.array([[row[name] or 0.0 for name in names] for row in rows])


def test_two_processes_are_one_with_the_doubled_batch(base: Path, mixture: Path, tmp_path: Path) -> None:
    doubled = tiny_recipe(base, batch_size=4, report_every=1, val_batches=-1)
    train(tmp_path / "one", mixture, DIGEST, doubled, Events())
    halved = doubled.model_copy(update={"batch_size": 2})
    launch(tmp_path, tmp_path / "two", mixture, halved)
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == 6 + 3
    assert np.allclose(one, two, rtol=2e-4)
    adapters = [mx.load(str(tmp_path / name / "checkpoint-6" / "adapters.safetensors")) for name in ("one", "two")]
    assert all(bool(mx.allclose(adapters[0][name], adapters[1][name], rtol=1e-2, atol=1e-4)) for name in adapters[0])
    state = json.loads((tmp_path / "two" / "checkpoint-6" / "state.json").read_text("utf-8"))
    assert state["processes"] == 2
    with pytest.raises(ValueError, match="trained by 2 processes together, now there are 1"):
        train(tmp_path / "two", mixture, DIGEST, halved.model_copy(update={"max_steps": 8}), Events())


def test_a_process_alone_sends_nothing() -> None:
    alone = Ranks.join()
    assert (alone.rank, alone.size, alone.leads) == (0, 1, True)
    values = mx.array([1.0, 2.0])
    assert alone.total(values) is values
    assert alone.count(3) == 3
    alone.require_same({"checkpoint": 4})
