"""Runs that stop before their last step, on their own or because they are asked to, and what follows."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mlx.core as mx
import pyarrow.parquet as pq
import pytest

from storage.checkpoint import list_checkpoints, read_state
from storage.events import parse_event
from tasks.lora import trainer, validation
from tasks.lora.data import load_training_data
from tasks.lora.loaded_base import load_base
from tasks.lora.ranks import Ranks
from tasks.lora.recipe import Recipe
from tasks.lora.stopping import StopRequest
from tasks.lora.trainer import train
from tests.tasks.lora.test_courses import DiesAt, Killed
from tests.tasks.lora.test_resume import long_recipe, start
from tests.tasks.lora.test_trainer import DIGEST, Events
from tests.tasks.lora.tiny_model import tiny_recipe


def state_of(run: Path, step: int) -> dict[str, Any]:
    """What a checkpoint knows, but for its time and the order of tensors in its files."""
    state = read_state(run / f"checkpoint-{step}")
    return {name: value for name, value in state.items() if name not in ("seconds", "files")}


def assert_same_end(run: Path, straight: Path, step: int) -> None:
    for file in ("adapters.safetensors", "optimizer.safetensors"):
        expected, found = (mx.load(str(folder / f"checkpoint-{step}" / file)) for folder in (straight, run))
        assert expected.keys() == found.keys()
        assert [name for name in expected if not bool(mx.array_equal(expected[name], found[name]))] == []
    assert state_of(run, step) == state_of(straight, step)
    rows = [
        [row for row in pq.read_table(folder / "metrics.parquet").to_pylist() if row["kind"] == "valid"]
        for folder in (run, straight)
    ]
    assert rows[0] == rows[1]


def rising(base: Path, **changes: Any) -> Recipe:
    """At this rate, the objective on the validation set rises soon."""
    settings = {"max_steps": 40, "learning_rate": 0.05, "eval_every": 2, "save_every": 2, "val_batches": -1}
    return tiny_recipe(base, **{"early_stop": 2} | settings | changes)


def test_a_run_that_dies_at_every_checkpoint_stops_early_where_another_does(
    base: Path, mixture: Path, tmp_path: Path
) -> None:
    recipe = rising(base)
    straight, run = tmp_path / "straight", tmp_path / "run"
    expected = train(straight, mixture, DIGEST, recipe, Events())
    last = expected["steps"]
    assert 4 <= last < 40
    for step in range(2, last + 1, 2):
        with pytest.raises(Killed):
            train(run, mixture, DIGEST, recipe, DiesAt("checkpoint", step))
    rest = Events()
    result = train(run, mixture, DIGEST, recipe, rest)
    assert not rest.of("progress"), "its last checkpoint knew that there was nothing left to do"
    assert any(entry["message"].startswith("Stopping early: 2 validations") for entry in rest.of("log"))
    assert result | {"seconds": 0} == expected | {"seconds": 0}
    assert_same_end(run, straight, last)


def test_a_run_that_stopped_early_goes_on_for_a_recipe_that_does_not(base: Path, mixture: Path, tmp_path: Path) -> None:
    stopped = train(tmp_path, mixture, DIGEST, rising(base, max_steps=20, early_stop=1), Events())
    assert stopped["steps"] < 20
    events = Events()
    result = train(tmp_path, mixture, DIGEST, rising(base, max_steps=20, early_stop=0), events)
    assert result["steps"] == events.of("progress")[-1]["step"] == 20
    assert events.of("progress")[0]["step"] == stopped["steps"] + 2, "it went on where it had stopped"


BATCHES = 7
"""Batches of the tiny mixture's validation set."""


class AskedInValidation:
    """Asks a run to stop within a validation, at the second of its batches."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
        self.requests: list[StopRequest] = []
        self.batches = 0
        measure, last = validation.token_losses, BATCHES * number + 2

        def remembered() -> StopRequest:
            self.requests.append(StopRequest())
            return self.requests[-1]

        def counted(*arguments: Any) -> mx.array:
            self.batches += 1
            if self.batches == last:
                self.requests[-1].signal = signal.SIGTERM
            return measure(*arguments)

        monkeypatch.setattr(trainer, "StopRequest", remembered)
        monkeypatch.setattr(validation, "token_losses", counted)


@pytest.mark.parametrize(("number", "step"), [(0, 0), (1, 4), (3, 12)])
def test_a_stop_is_heard_within_a_validation_which_is_then_repeated(
    base: Path, mixture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, step: int
) -> None:
    recipe = long_recipe(base, batch_tokens=None, val_batches=-1, save_every=6, early_stop=50)
    straight, run = tmp_path / "straight", tmp_path / "run"
    train(straight, mixture, DIGEST, recipe, Events())
    with monkeypatch.context() as patched:
        asked = AskedInValidation(patched, number)
        with pytest.raises(SystemExit, match="143"):
            train(run, mixture, DIGEST, recipe, Events())
        assert asked.batches == BATCHES * number + 2, "no batch more is measured"
    if step:
        assert list_checkpoints(run)[-1][0] == step
        assert state_of(run, step)["validation_pending"]
    else:
        assert not list_checkpoints(run), "nothing was trained yet"
    rest = Events()
    train(run, mixture, DIGEST, recipe, rest)
    assert [entry["step"] for entry in rest.of("validation")] == [at for at in (0, 4, 8, 12) if at >= step]
    assert_same_end(run, straight, 12)


def test_processes_that_train_together_heed_a_stop_at_the_same_moments(base: Path, mixture: Path) -> None:
    recipe = tiny_recipe(base, val_batches=-1)
    loaded = load_base(base)
    data = load_training_data(mixture, loaded.encode, loaded.end_token, recipe)
    assert data.valid is not None
    asked = [0, 0, 0]
    for rank in range(3):

        def heed(rank: int = rank) -> None:
            asked[rank] += 1

        validation.validate(loaded.model, data.valid, recipe, Ranks(None, rank, 3), heed)
    assert asked == [3, 3, 3], "seven batches are three rounds of three processes"


def test_a_second_sigterm_does_not_cost_the_checkpoint(base: Path, mixture: Path, tmp_path: Path) -> None:
    process = start(tmp_path, tmp_path / "run", mixture, long_recipe(base, thermal_throttle=0.5))
    assert process.stdout is not None
    events = []
    for line in process.stdout:
        events.append(parse_event(line))
        if events[-1]["event"] == "progress" and events[-1]["step"] == 2:
            time.sleep(0.1)  # the trainer is in its pause of half a second now
            process.terminate()
            time.sleep(0.1)
            process.terminate()
    process.stdout.close()
    assert process.wait(timeout=60) == 128 + signal.SIGTERM
    assert (events[-1]["event"], events[-1]["step"]) == ("checkpoint", 2)


def test_only_a_second_interrupt_ends_a_process_that_was_asked_to_stop() -> None:
    code = """
import signal
from tasks.lora.stopping import StopRequest
with StopRequest() as stop:
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
        signal.raise_signal(number)
    print(stop.exit_status, flush=True)
    signal.raise_signal(signal.SIGINT)
    print("never")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == [str(128 + signal.SIGTERM)]
    assert done.stderr.rstrip().endswith("KeyboardInterrupt")
