"""The training process as its parent and its machine see it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from storage.checkpoint import list_checkpoints
from storage.events import parse_event
from storage.lock import only_writer
from storage.manifest import digest_of
from tasks.lora.__main__ import check_memory
from tasks.lora.machine import CACHE_SHARE, limit_memory, training_limit_bytes
from tasks.lora.memory import machine_memory_gb
from tasks.lora.recipe import Recipe
from tests.tasks.lora.tiny_model import tiny_recipe, write_base

PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-m", "tasks.lora", sys.argv[1]], stdout=subprocess.PIPE, text=True,
                         start_new_session=True)
for line in child.stdout:
    print(line, end="", flush=True)
"""


def specify(tmp_path: Path, mixture: Path, recipe: Recipe | dict[str, Any], run: str = "run") -> list[str]:
    specification = {
        "run_folder": str(tmp_path / "runs" / run),
        "balanced_folder": str(mixture),
        "mixture_digest": digest_of("tiny"),
        "recipe": recipe if isinstance(recipe, dict) else recipe.model_dump(mode="json"),
    }
    path = tmp_path / f"{run}.json"
    path.write_text(json.dumps(specification), "utf-8")
    return [sys.executable, "-m", "tasks.lora", str(path)]


def events_of(command: list[str], **environment: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=False, timeout=120
    )
    return [parse_event(line) for line in done.stdout.splitlines()]


def test_a_killed_parent_leaves_a_checkpoint_and_no_trainer(base: Path, mixture: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(base, max_steps=400, save_every=1000, report_every=1, thermal_throttle=0.05, val_batches=0)
    command = specify(tmp_path, mixture, recipe)
    with subprocess.Popen([sys.executable, "-c", PARENT, command[-1]], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        for line in parent.stdout:
            if parse_event(line)["event"] == "progress":
                parent.send_signal(signal.SIGKILL)
                break
    run = tmp_path / "runs" / "run"
    deadline = time.monotonic() + 25
    while not list_checkpoints(run):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    with only_writer(tmp_path / "runs", 20.0):  # held until the trainer is gone
        assert len(list_checkpoints(run)) == 1


def test_a_second_training_waits_its_turn_plans_its_memory_and_keeps_the_machine_awake(
    base: Path, mixture: Path, tmp_path: Path
) -> None:
    keeper = tmp_path / "bin" / "caffeinate"
    keeper.parent.mkdir()
    keeper.write_text(f'#!/bin/sh\necho "$@" $PPID > {tmp_path}/called\nexec sleep 600\n')
    keeper.chmod(0o755)
    path = f"{keeper.parent}{os.pathsep}{os.environ['PATH']}"
    command = specify(tmp_path, mixture, tiny_recipe(base, max_steps=1, val_batches=0))
    with only_writer(tmp_path / "runs"):
        second = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PATH": path})
        assert second.stdout is not None
        first = parse_event(second.stdout.readline())
        assert first["message"].startswith("Another training runs in")
        assert not (tmp_path / "runs" / "run").exists() and not (tmp_path / "called").exists()
    events = [parse_event(line) for line in second.stdout]
    second.stdout.close()
    assert second.wait(60) == 0 and events[-1]["event"] == "result"

    messages = [event.get("message", "") for event in events]
    (plan,) = [message for message in messages if message.startswith("Memory: ")]
    assert "peak" in plan and plan.endswith("that training may use: fits")
    assert messages.index(plan) < messages.index(f"Loading model: {base}")

    *flags, watched, parent = (tmp_path / "called").read_text().split()
    assert flags == ["-i", "-m", "-s", "-w"] and watched == parent, "it ends with the trainer, however that ends"
    listing = subprocess.run(["ps", "-eo", "ppid=,args="], capture_output=True, text=True, check=True).stdout
    assert not [line for line in listing.splitlines() if line.split()[0] == parent]


def test_a_lock_that_is_a_link_is_told_and_not_waited_for(base: Path, mixture: Path, tmp_path: Path) -> None:
    (tmp_path / ".runs.lock").symlink_to(tmp_path / "elsewhere")
    (event,) = events_of(specify(tmp_path, mixture, tiny_recipe(base, max_steps=1)))
    assert (event["event"], event["kind"]) == ("error", "StoreError")
    assert ".runs.lock is a link" in event["message"]
    assert not (tmp_path / "elsewhere").exists()


def test_the_system_keeps_its_share_of_the_memory() -> None:
    limit = training_limit_bytes()
    assert 0 < limit <= 0.75 * machine_memory_gb() * 1e9
    cache, memory = mx.set_cache_limit(1 << 20), mx.set_memory_limit(1 << 30)
    try:
        limit_memory()
        assert mx.set_memory_limit(memory) == int(limit)
        assert mx.set_cache_limit(cache) == int(CACHE_SHARE * int(limit))
    finally:
        mx.set_cache_limit(cache)
        mx.set_memory_limit(memory)


@pytest.mark.parametrize(
    ("told", "share"),
    [
        ({}, 0.75),
        ({"max_recommended_working_set_size": 5_000_000_000}, 0.5),
        ({"max_recommended_working_set_size": 500_000_000_000}, 0.75),
        ({"total_memory": 8_000_000_000}, 0.6),
        ({"total_memory": 800_000_000_000}, 0.75),
    ],
)
def test_a_gpu_bounds_what_training_may_take(
    told: dict[str, int], share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISTRUST_MEMORY_GB", "10")
    monkeypatch.setattr(mx, "device_info", lambda: told)
    assert training_limit_bytes() == pytest.approx(share * 10e9)


def test_every_fault_of_a_recipe_is_told_at_once(mixture: Path, tmp_path: Path) -> None:
    recipe = {"alpha": 5, "batch_size": 0, "lora_dropout": 2, "no_such_field": 1}
    (event,) = events_of(specify(tmp_path, mixture, recipe))
    assert (event["event"], event["kind"]) == ("error", "ParameterError")
    assert event["message"].startswith("the recipe has 4 faults: ")
    for words in ("alpha: Input should be less than or equal to 3 (got 5)", "batch_size", "lora_dropout", "no_such"):
        assert words in event["message"]


def test_a_recipe_that_does_not_fit_is_refused_before_anything_is_loaded(mixture: Path, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    config = json.loads((base / "config.json").read_text("utf-8"))
    # The sizes alone are gigantic; loading these weights under this configuration would fail otherwise.
    (base / "config.json").write_text(json.dumps(config | {"hidden_size": 65536, "num_hidden_layers": 500}), "utf-8")
    recipe = tiny_recipe(base, batch_size=64, max_seq_length=65536)
    (event,) = events_of(specify(tmp_path, mixture, recipe))
    assert (event["event"], event["kind"]) == ("error", "ParameterError")
    assert "GB at its peak and may use" in event["message"] and "max_seq_length=" in event["message"]
    assert not (tmp_path / "runs" / "run").exists()


@pytest.mark.parametrize(("policy", "lines"), [("off", 0), ("warn", 2)])
def test_who_wants_to_is_only_warned(base: Path, monkeypatch: pytest.MonkeyPatch, policy: str, lines: int) -> None:
    monkeypatch.setattr("tasks.lora.__main__.training_limit_bytes", lambda: 1e5)
    told: list[str] = []
    recipe = tiny_recipe(base, plan_memory=policy)
    check_memory(recipe, lambda event, message: told.append(message))
    assert len(told) == lines
    if told:
        assert told[0].endswith("does not fit") and "still does not fit: choose a smaller model" in told[1]
