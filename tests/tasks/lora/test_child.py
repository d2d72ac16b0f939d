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

from storage.events import serve_specification
from storage.lock import only_writer
from tasks.lora.__main__ import check_memory, work
from tasks.lora.memory import machine_memory_gb
from tasks.lora.process import CACHE_SHARE, limit_memory, training_limit_bytes
from tasks.lora.recipe import Specification
from tests.events import parse_event
from tests.tasks.lora.running import Events, specify, steps_of
from tests.tasks.lora.tiny_model import tiny_recipe, write_base

PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-m", "tasks.lora", sys.argv[1]], stdout=subprocess.PIPE, text=True,
                         start_new_session=True)
for line in child.stdout:
    print(line, end="", flush=True)
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "run"


def test_a_killed_parent_leaves_a_checkpoint_and_no_trainer(base: Path, mixture: Path, run: Path) -> None:
    recipe = tiny_recipe(base, max_steps=400, save_every=1000, report_every=1, thermal_throttle=0.05, val_batches=0)
    command = specify(run, mixture, recipe)
    with subprocess.Popen([sys.executable, "-c", PARENT, command[-1]], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        for line in parent.stdout:
            if parse_event(line)["event"] == "progress":
                parent.send_signal(signal.SIGKILL)
                break
    deadline = time.monotonic() + 25
    while not steps_of(run):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    with only_writer(run.parent, 20.0):  # held until the trainer is gone
        assert len(steps_of(run)) == 1


def test_a_second_training_waits_its_turn_plans_its_memory_and_keeps_the_machine_awake(
    base: Path, mixture: Path, run: Path, tmp_path: Path
) -> None:
    keeper = tmp_path / "bin" / "caffeinate"
    keeper.parent.mkdir()
    keeper.write_text(f'#!/bin/sh\necho "$@" $PPID > {tmp_path}/called\nexec sleep 600\n')
    keeper.chmod(0o755)
    environment = os.environ | {"PATH": f"{keeper.parent}{os.pathsep}{os.environ['PATH']}"}
    command = specify(run, mixture, tiny_recipe(base, max_steps=1, val_batches=0))
    with only_writer(run.parent):
        second = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert second.stdout is not None
        assert parse_event(second.stdout.readline())["message"].startswith("Another training runs in")
        assert not run.exists() and not (tmp_path / "called").exists()
    events = Events(parse_event(line) for line in second.stdout)
    second.stdout.close()
    assert second.wait(60) == 0
    assert events[-1]["adapter"] == str(run / "checkpoint-1"), "the parent gets the adapter's whole path"

    (plan,) = [line for line in events.lines() if line.startswith("Memory: ")]
    assert "peak" in plan and plan.endswith("that training may use: fits")
    assert events.lines().index(plan) < events.lines().index(f"Loading model: {base}")

    *flags, watched, parent = (tmp_path / "called").read_text().split()
    assert flags == ["-i", "-m", "-s", "-w"] and watched == parent, "it ends with the trainer, however that ends"
    listing = subprocess.run(["ps", "-eo", "ppid=,args="], capture_output=True, text=True, check=True).stdout
    assert not [line for line in listing.splitlines() if line.split()[0] == parent]


def test_what_cannot_start_reaches_the_parent_as_one_error(
    base: Path, mixture: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr("storage.events.end_with_parent", lambda: None)

    def refused(command: list[str], kind: str) -> str:
        monkeypatch.setattr(sys, "argv", command[-2:])
        assert serve_specification(work, Specification) == 1
        event = parse_event(capsys.readouterr().out)
        assert (event["event"], event["kind"]) == ("error", kind)
        assert not run.exists()
        return str(event["message"])

    wrong = specify(run, mixture, {"alpha": 5, "batch_size": 0, "lora_dropout": 2, "no_such_field": 1})
    message = refused(wrong, "ParameterError")
    assert message.startswith("the specification has 4 faults: "), "every fault at once"
    for words in (
        "recipe.alpha: Input should be less than or equal to 3 (got 5)",
        "batch_size",
        "lora_dropout",
        "no_such",
    ):
        assert words in message

    large = write_base(tmp_path / "base")
    config = json.loads((large / "config.json").read_text("utf-8"))
    # The sizes alone are gigantic; loading these weights under this configuration would fail otherwise.
    (large / "config.json").write_text(json.dumps(config | {"hidden_size": 65536, "num_hidden_layers": 500}), "utf-8")
    message = refused(specify(run, mixture, tiny_recipe(large, batch_size=64, max_seq_length=65536)), "ParameterError")
    assert "GB at its peak and may use" in message and "max_seq_length=" in message

    (tmp_path / ".runs.lock").unlink(missing_ok=True)
    (tmp_path / ".runs.lock").symlink_to(tmp_path / "elsewhere")
    assert ".runs.lock is a link" in refused(specify(run, mixture, tiny_recipe(base, max_steps=1)), "StoreError")
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
    ("device", "share"),
    [
        ({}, 0.75),
        ({"max_recommended_working_set_size": 5_000_000_000}, 0.5),
        ({"max_recommended_working_set_size": 500_000_000_000}, 0.75),
        ({"total_memory": 8_000_000_000}, 0.6),
        ({"total_memory": 800_000_000_000}, 0.75),
    ],
)
def test_a_gpu_bounds_what_training_may_take(
    device: dict[str, int], share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISTRUST_MEMORY_GB", "10")
    monkeypatch.setattr(mx, "device_info", lambda: device)
    assert training_limit_bytes() == pytest.approx(share * 10e9)


@pytest.mark.parametrize(("policy", "lines"), [("off", 0), ("warn", 2)])
def test_a_plan_may_be_a_warning_or_nothing(
    base: Path, monkeypatch: pytest.MonkeyPatch, policy: str, lines: int
) -> None:
    monkeypatch.setattr("tasks.lora.__main__.training_limit_bytes", lambda: 1e5)
    events = Events()
    check_memory(tiny_recipe(base, plan_memory=policy), events)
    assert len(events) == lines
    if lines:
        assert events.lines()[0].endswith("does not fit")
        assert "still does not fit: choose a smaller model" in events.lines()[1]
