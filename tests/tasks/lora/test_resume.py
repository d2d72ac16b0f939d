"""Interrupted equals uninterrupted, across processes."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import pyarrow.parquet as pq

from storage.checkpoint import list_checkpoints
from storage.events import parse_event
from storage.manifest import digest_of
from tasks.lora.__main__ import work
from tasks.lora.recipe import Recipe
from tasks.lora.trainer import train
from tests.tasks.lora.test_trainer import Events
from tests.tasks.lora.tiny_model import tiny_recipe

DIGEST = digest_of("tiny")


def start(folder: Path, run: Path, mixture: Path, recipe: Recipe) -> subprocess.Popen[str]:
    specification = {
        "run_folder": str(run),
        "balanced_folder": str(mixture),
        "mixture_digest": DIGEST,
        "recipe": recipe.model_dump(mode="json"),
    }
    path = folder / f"{run.name}.json"
    path.write_text(json.dumps(specification), "utf-8")
    return subprocess.Popen([sys.executable, "-m", "tasks.lora", str(path)], stdout=subprocess.PIPE, text=True)


def interrupt(process: subprocess.Popen[str], at: str, step: int, number: signal.Signals) -> list[dict[str, Any]]:
    """Send a signal at an event and return all events."""
    assert process.stdout is not None
    events = []
    for line in process.stdout:
        events.append(parse_event(line))
        if events[-1]["event"] == at and events[-1]["step"] == step:
            process.send_signal(number)
    process.stdout.close()
    process.wait(timeout=60)
    return events


def tensors(run: Path, step: int) -> dict[str, mx.array]:
    folder = run / f"checkpoint-{step}"
    return mx.load(str(folder / "adapters.safetensors")) | mx.load(str(folder / "optimizer.safetensors"))


def long_recipe(base: Path, **changes: Any) -> Recipe:
    settings = {
        "max_steps": 12,
        "save_every": 5,
        "report_every": 1,
        "lora_dropout": 0.2,
        "eval_every": 4,
        "batch_tokens": 160,
    }
    return tiny_recipe(base, **(settings | changes))


def test_interrupted_equals_uninterrupted(base: Path, mixture: Path, tmp_path: Path) -> None:
    straight, run = tmp_path / "straight", tmp_path / "run"
    train(straight, mixture, DIGEST, long_recipe(base), Events())
    slow = long_recipe(base, thermal_throttle=0.1)  # time to be interrupted between two checkpoints

    stopped = start(tmp_path, run, mixture, slow)
    events = interrupt(stopped, "progress", 2, signal.SIGTERM)
    assert stopped.returncode == 128 + signal.SIGTERM
    assert events[-1]["event"] == "checkpoint", "a run that is asked to stop saves where it is"
    first = events[-1]["step"]
    assert first in (2, 3)

    victim = random.Random().randint(4, 11)
    print(f"killed after step {victim}")  # pytest shows it when the test fails
    killed = interrupt(start(tmp_path, run, mixture, slow), "progress", victim, signal.SIGKILL)
    steps = [entry["step"] for entry in killed if entry["event"] == "progress"]
    assert steps == list(range(first + 1, steps[-1] + 1))
    assert steps[-1] >= victim
    saved = max(step for step, _ in list_checkpoints(run))
    assert saved in (first, 5, 10)

    rest = Events()
    result = train(run, mixture, DIGEST, long_recipe(base), rest)
    assert [entry["step"] for entry in rest.of("progress")] == list(range(saved + 1, 13)), "from the last checkpoint on"
    assert result["adapter"] == "checkpoint-12"
    assert_same_end(run, straight)
    rows = pq.read_table(run / "metrics.parquet").to_pylist()
    assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(1, 13))


def assert_same_end(run: Path, straight: Path) -> None:
    expected, found = tensors(straight, 12), tensors(run, 12)
    assert expected.keys() == found.keys()
    assert len(expected) == 28 + 2 + 2 * 28
    different = [name for name in expected if not bool(mx.array_equal(expected[name], found[name]))]
    assert different == []
    states = [json.loads((folder / "checkpoint-12" / "state.json").read_text("utf-8")) for folder in (run, straight)]
    assert states[0]["cursor"] == states[1]["cursor"] == 24
    assert states[0]["tokens"] == states[1]["tokens"]
    assert states[0]["valid_before"] == states[1]["valid_before"]


def test_the_parent_gets_the_adapters_whole_path(base: Path, mixture: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(base, max_steps=1, val_batches=0)
    specification = {
        "run_folder": str(tmp_path / "run"),
        "balanced_folder": str(mixture),
        "mixture_digest": DIGEST,
        "recipe": recipe.model_dump(mode="json"),
    }
    assert work(specification, Events())["adapter"] == str(tmp_path / "run" / "checkpoint-1")


def test_a_dead_parent_does_not_keep_a_checkpoint_from_being_saved(base: Path, mixture: Path, tmp_path: Path) -> None:
    def gone(event: str, **fields: Any) -> None:
        if event != "log":
            raise BrokenPipeError

    train(tmp_path / "run", mixture, DIGEST, tiny_recipe(base, max_steps=1), gone)
    assert (tmp_path / "run" / "checkpoint-1" / "state.json").is_file()


def test_a_bad_recipe_reaches_the_parent_as_an_error_event(mixture: Path, tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    recipe = {"model": "x", "alpha": 5, "batch_size": 0}
    spec = {"run_folder": "r", "balanced_folder": str(mixture), "mixture_digest": DIGEST, "recipe": recipe}
    path.write_text(json.dumps(spec), "utf-8")
    done = subprocess.run([sys.executable, "-m", "tasks.lora", str(path)], capture_output=True, text=True, check=False)
    event = parse_event(done.stdout.splitlines()[-1])
    assert (done.returncode, event["event"], event["kind"]) == (1, "error", "ParameterError")
    assert "alpha" in event["message"]
    assert "batch_size" in event["message"]
