"""Runs of a tiny model, in this process or in one of their own, and what they leave."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import pyarrow.parquet as pq

from storage.checkpoint import list_checkpoints
from storage.manifest import digest_of
from storage.training_result import TrainingResult
from storage.untrusted import read_object
from tasks.lora.recipe import Recipe
from tasks.lora.trainer import train
from tests.events import parse_event

DIGEST = digest_of("tiny")


class Events(list[dict[str, Any]]):
    """Collects events as the parent would see them."""

    def __call__(self, event: str, **fields: Any) -> None:
        self.append({"event": event, **fields})

    def of(self, event: str) -> list[dict[str, Any]]:
        return [entry for entry in self if entry["event"] == event]

    def steps(self, event: str = "progress") -> list[int]:
        return [entry["step"] for entry in self.of(event)]

    def lines(self) -> list[str]:
        return [entry["message"] for entry in self.of("log")]


class Killed(Exception):
    """Stands for a process that dies."""


class DiesAt(Events):
    """Receives events until a step is reported."""

    def __init__(self, event: str, step: int) -> None:
        super().__init__()
        self.moment = (event, step)

    def __call__(self, event: str, **fields: Any) -> None:
        super().__call__(event, **fields)
        if (event, fields.get("step")) == self.moment:
            raise Killed


def train_here(run: Path, mixture: Path, recipe: Recipe, events: Events | None = None) -> TrainingResult:
    return train(run, mixture, DIGEST, recipe, Events() if events is None else events)


def specify(run: Path, mixture: Path, recipe: Recipe | dict[str, Any]) -> list[str]:
    """Write what a child process is to do; return the command of the child."""
    specification = {
        "run_folder": str(run),
        "balanced_folder": str(mixture),
        "mixture_digest": DIGEST,
        "recipe": recipe if isinstance(recipe, dict) else recipe.model_dump(mode="json"),
    }
    run.parent.mkdir(exist_ok=True)
    path = run.with_name(f"{run.name}.json")
    path.write_text(json.dumps(specification), "utf-8")
    return [sys.executable, "-m", "tasks.lora", str(path)]


def events_of(command: list[str]) -> tuple[int, Events]:
    """Run a child to its end; return its status and its events."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    return done.returncode, Events(parse_event(line) for line in done.stdout.splitlines())


def steps_of(run: Path) -> list[int]:
    return [step for step, _ in list_checkpoints(run)]


def tensors(run: Path, step: int) -> dict[str, mx.array]:
    folder = run / f"checkpoint-{step}"
    return mx.load(str(folder / "adapters.safetensors")) | mx.load(str(folder / "optimizer.safetensors"))


def state_of(run: Path, step: int) -> dict[str, Any]:
    """What a checkpoint knows, but for its time and the order of tensors in its files."""
    state = read_object(run / f"checkpoint-{step}" / "state.json")
    return {name: value for name, value in state.items() if name not in ("seconds", "files")}


def rows(run: Path, kind: str) -> list[dict[str, Any]]:
    return [row for row in pq.read_table(run / "metrics.parquet").to_pylist() if row["kind"] == kind]


def assert_same_end(run: Path, straight: Path, step: int) -> None:
    expected, found = tensors(straight, step), tensors(run, step)
    assert expected.keys() == found.keys() and len(expected) == 28 + 2 + 2 * 28
    assert [name for name in expected if not bool(mx.array_equal(expected[name], found[name]))] == []
    assert state_of(run, step) == state_of(straight, step)
    assert rows(run, "valid") == rows(straight, "valid")
