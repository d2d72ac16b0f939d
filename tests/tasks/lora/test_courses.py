"""A run that goes on from an older checkpoint: what it had reached before makes room, and nothing of it is lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from storage.checkpoint import list_checkpoints
from tasks.lora.recipe import Recipe
from tasks.lora.trainer import train
from tests.tasks.lora.test_trainer import DIGEST, Events
from tests.tasks.lora.tiny_model import tiny_recipe


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


def steps(run: Path) -> list[int]:
    return [step for step, _ in list_checkpoints(run)]


def frugal(base: Path, **changes: Any) -> Recipe:
    """A recipe that keeps one checkpoint, and no best one."""
    return tiny_recipe(base, **{"save_every": 1, "report_every": 1, "keep_last": 1, "val_batches": 0} | changes)


@pytest.fixture
def long_run(base: Path, mixture: Path, tmp_path: Path) -> Path:
    train(tmp_path / "run", mixture, DIGEST, frugal(base, max_steps=6, keep_last=9), Events())
    return tmp_path / "run"


def test_new_progress_from_an_older_checkpoint_is_kept(long_run: Path, base: Path, mixture: Path) -> None:
    again = frugal(base, max_steps=5, resume_from="checkpoint-2")
    with pytest.raises(Killed):
        train(long_run, mixture, DIGEST, again, DiesAt("progress", 4))
    assert steps(long_run) == [3], "the one before is pruned, the newest of this course is kept"
    assert steps(long_run / "aside") == [3, 4, 5, 6]
    assert json.loads((long_run / "aside" / "result.json").read_text("utf-8"))["adapter"] == "checkpoint-6"
    assert not (long_run / "result.json").exists(), "it would name an adapter that is not there any more"

    events = Events()
    result = train(long_run, mixture, DIGEST, again, events)
    assert [entry["step"] for entry in events.of("progress")] == [4, 5], "the course goes on where it was"
    assert result["adapter"] == "checkpoint-5" and steps(long_run) == [5]
    before = mx.load(str(long_run / "aside" / "checkpoint-5" / "adapters.safetensors"))
    after = mx.load(str(long_run / "checkpoint-5" / "adapters.safetensors"))
    assert before.keys() == after.keys()


def test_checkpoints_that_came_back_do_not_hide_the_new_course(long_run: Path, base: Path, mixture: Path) -> None:
    again = frugal(base, max_steps=5, resume_from="checkpoint-2")
    with pytest.raises(Killed):
        train(long_run, mixture, DIGEST, again, DiesAt("progress", 4))
    # A killed run took nothing away from the bucket of its store, which brings the older ones here again.
    (long_run / "aside" / "checkpoint-6").rename(long_run / "checkpoint-6")
    events = Events()
    train(long_run, mixture, DIGEST, again, events)
    assert [entry["step"] for entry in events.of("progress")] == [4, 5]
    assert steps(long_run) == [5] and steps(long_run / "aside-2") == [6]


def test_the_earlier_course_can_be_gone_back_to(long_run: Path, base: Path, mixture: Path) -> None:
    train(long_run, mixture, DIGEST, frugal(base, max_steps=4, resume_from="checkpoint-2"), Events())
    back = frugal(base, max_steps=6, resume_from="aside/checkpoint-6")
    result = train(long_run, mixture, DIGEST, back, Events())
    assert result["adapter"] == "checkpoint-6" and steps(long_run) == [6]


def test_a_damaged_newer_checkpoint_does_not_push_out_what_comes(long_run: Path, base: Path, mixture: Path) -> None:
    for step in (1, 2, 3, 5):
        (long_run / f"checkpoint-{step}").rename(long_run / f"other-{step}")
    (long_run / "checkpoint-6" / "state.json").write_text("{", "utf-8")
    events = DiesAt("progress", 6)
    with pytest.raises(Killed):
        train(long_run, mixture, DIGEST, frugal(base, max_steps=8), events)
    assert steps(long_run) == [5] and steps(long_run / "aside") == [6]
    assert any("of another course; they lie in" in entry["message"] for entry in events.of("log"))
