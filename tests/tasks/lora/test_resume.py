"""Runs that are stopped, killed or taken back to an older checkpoint: interrupted equals uninterrupted."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from storage.chat_layout import UNRECORDED, ChatLayout
from storage.checkpoint import list_checkpoints, trained_layout
from storage.errors import StoreError
from tasks.lora import trainer, validation
from tasks.lora.base_model import load_base
from tasks.lora.data import load_training_data
from tasks.lora.display import TERM_COLUMNS
from tasks.lora.process import StopRequest
from tasks.lora.ranks import Ranks
from tasks.lora.recipe import TERMS, Recipe
from tests.events import parse_event
from tests.tasks.lora.running import (
    DiesAt,
    Events,
    Killed,
    assert_same_end,
    rows,
    specify,
    state_of,
    steps_of,
    tensors,
    train_here,
)
from tests.tasks.lora.tiny_model import tiny_recipe


def long_recipe(base: Path, **changes: Any) -> Recipe:
    settings: dict[str, Any] = {"max_steps": 12, "save_every": 5, "report_every": 1, "eval_every": 4}
    settings |= {"lora_dropout": 0.2, "batch_tokens": 160}
    return tiny_recipe(base, **(settings | changes))


def interrupt(command: list[str], at: str, step: int, number: signal.Signals) -> tuple[int, Events]:
    """Send a signal at an event; return the status and all events."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        events = Events()
        for line in process.stdout:
            events.append(parse_event(line))
            if (events[-1]["event"], events[-1].get("step")) == (at, step):
                process.send_signal(number)
    return process.returncode, events


ALONE = pytest.param(0.0, id="alone", marks=pytest.mark.drill)  # the terms are added to what it does


@pytest.mark.parametrize("weight", [ALONE, pytest.param(0.5, id="with terms")])
def test_interrupted_equals_uninterrupted(base: Path, taught_mixture: Path, tmp_path: Path, weight: float) -> None:
    straight, run, mixture = tmp_path / "straight", tmp_path / "runs" / "run", taught_mixture
    terms = {f"{term}_weight": weight for term in TERMS}
    recipe = long_recipe(base, **terms)
    train_here(straight, mixture, recipe)
    slow = specify(run, mixture, recipe.model_copy(update={"thermal_throttle": 0.1}))  # time to be interrupted

    status, events = interrupt(slow, "progress", 2, signal.SIGTERM)
    assert status == 128 + signal.SIGTERM
    assert events[-1]["event"] == "checkpoint", "a run that is asked to stop saves where it is"
    first = events[-1]["step"]
    assert first in (2, 3)

    victim = random.Random().randint(4, 11)
    print(f"killed after step {victim}")  # pytest shows it when the test fails
    _, killed = interrupt(slow, "progress", victim, signal.SIGKILL)
    assert killed.steps() == list(range(first + 1, killed.steps()[-1] + 1)) and killed.steps()[-1] >= victim
    saved = max(steps_of(run))
    assert saved in (first, 5, 10)

    rest = Events()
    assert train_here(run, mixture, recipe, rest).adapter == "checkpoint-12"
    assert rest.steps() == list(range(saved + 1, 13)), "from the last checkpoint on"
    assert_same_end(run, straight, 12)
    assert state_of(run, 12)["cursor"] == 24
    assert [row["step"] for row in rows(run, "train")] == list(range(1, 13))
    measured = [row[name] for row in rows(run, "train") + rows(run, "valid") for name in TERM_COLUMNS]
    assert len([value for value in measured if value is not None]) == (3 * (12 + 4) if weight else 0)


def test_only_a_second_interrupt_ends_a_process_that_was_asked_to_stop() -> None:
    code = """
import signal
from tasks.lora.process import stop_request
with stop_request() as stop:
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
        signal.raise_signal(number)
    print(stop.exit_status, flush=True)
    signal.raise_signal(signal.SIGINT)
    print("never")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == [str(128 + signal.SIGTERM)]
    assert done.stderr.rstrip().endswith("KeyboardInterrupt")


def rising(base: Path, **changes: Any) -> Recipe:
    """At this rate, the objective on the validation set rises soon."""
    settings = {"max_steps": 40, "learning_rate": 0.05, "eval_every": 2, "save_every": 2, "val_batches": -1}
    return tiny_recipe(base, **{"early_stop": 2} | settings | changes)


def test_a_run_that_dies_at_every_checkpoint_stops_early_where_another_does(
    base: Path, mixture: Path, tmp_path: Path
) -> None:
    recipe, events = rising(base), Events()
    straight, run = tmp_path / "straight", tmp_path / "run"
    expected = train_here(straight, mixture, recipe, events)
    last = expected.steps
    objectives = [entry["valid_objective"] for entry in events.of("validation")][1:]
    assert 4 <= last < 40 and len(objectives) == objectives.index(min(objectives)) + 1 + 2
    assert last == events.steps("validation")[-1] == steps_of(straight)[-1]
    for step in range(2, last + 1, 2):
        with pytest.raises(Killed):
            train_here(run, mixture, recipe, DiesAt("checkpoint", step))
    rest = Events()
    result = train_here(run, mixture, recipe, rest)
    assert not rest.steps(), "its last checkpoint knew that there was nothing left to do"
    assert any(line.startswith("Stopping early: 2 validations") for line in rest.lines())
    assert result.model_copy(update={"seconds": expected.seconds}) == expected
    assert_same_end(run, straight, last)
    longer = Events()
    assert train_here(run, mixture, rising(base, max_steps=last + 2, early_stop=0), longer).steps == last + 2
    assert longer.steps() == [last + 2], "for a recipe that does not stop early it goes on where it had stopped"


BATCHES = 7
"""Batches of the tiny mixture's validation set."""


class AskedInValidation:
    """Asks a run to stop within a validation, at the second of its batches."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
        self.request = StopRequest()
        self.batches = 0
        measure, last = validation.token_losses, BATCHES * number + 2

        def counted(*arguments: Any) -> mx.array:
            self.batches += 1
            if self.batches == last:
                self.request.signal = signal.SIGTERM
            return measure(*arguments)

        monkeypatch.setattr(trainer, "stop_request", lambda: nullcontext(self.request))
        monkeypatch.setattr(validation, "token_losses", counted)


def validating(base: Path) -> Recipe:
    return long_recipe(base, batch_tokens=None, val_batches=-1, save_every=6, early_stop=50)


@pytest.fixture(scope="module")
def straight(base: Path, mixture: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing stopped."""
    run = tmp_path_factory.mktemp("runs") / "straight"
    train_here(run, mixture, validating(base))
    return run


@pytest.mark.parametrize(("number", "step"), [(0, 0), (1, 4), (3, 12)])
def test_a_stop_takes_effect_within_a_validation_which_is_then_repeated(
    straight: Path, base: Path, mixture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, step: int
) -> None:
    recipe, run = validating(base), tmp_path / "run"
    with monkeypatch.context() as patched:
        asked = AskedInValidation(patched, number)
        with pytest.raises(SystemExit, match="143"):
            train_here(run, mixture, recipe)
        assert asked.batches == BATCHES * number + 2, "no batch more is measured"
    if step:
        assert steps_of(run)[-1] == step and state_of(run, step)["validation_pending"]
    else:
        assert not steps_of(run), "nothing was trained yet"
    rest = Events()
    train_here(run, mixture, recipe, rest)
    assert rest.steps("validation") == [at for at in (0, 4, 8, 12) if at >= step]
    assert_same_end(run, straight, 12)


def test_processes_that_train_together_ask_for_a_stop_at_the_same_moments(base: Path, mixture: Path) -> None:
    recipe = tiny_recipe(base, val_batches=-1)
    loaded = load_base(base)
    data = load_training_data(mixture, ChatLayout(loaded.tokenizer), recipe)
    assert data.valid is not None
    asked: list[int] = []
    for rank in range(3):
        validation.validate(
            loaded.model, data.valid, recipe, Ranks(None, rank, 3), lambda rank=rank: asked.append(rank)
        )
    assert [asked.count(rank) for rank in range(3)] == [3, 3, 3], "seven batches are three rounds of three processes"


def test_a_damaged_checkpoint_is_passed_over(base: Path, mixture: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    recipe = tiny_recipe(base, max_steps=6, save_every=2, val_batches=0)
    train_here(run, mixture, recipe)
    straight = tensors(run, 6)
    (run / "checkpoint-6" / "state.json").write_text("{", "utf-8")
    moments = run / "checkpoint-4" / "optimizer.safetensors"
    moments.write_bytes(moments.read_bytes()[:-8] + b"12345678")
    with pytest.raises(StoreError, match=r"checkpoint-4 is damaged \(optimizer.safetensors\)"):
        train_here(run, mixture, recipe.model_copy(update={"resume_from": "checkpoint-4", "max_steps": 7}))
    (run / "result.json").unlink()
    events = Events()
    train_here(run, mixture, recipe, events)
    assert "checkpoint-6 is damaged (state.json); an older checkpoint is used" in events.lines()
    assert "checkpoint-4 is damaged (optimizer.safetensors); an older checkpoint is used" in events.lines()
    assert any("Resuming" in line and "at step 2" in line for line in events.lines())
    again = tensors(run, 6)
    assert all(bool(mx.array_equal(straight[name], again[name])) for name in straight)


def test_a_run_goes_on_from_a_named_checkpoint_and_then_from_its_own_newest(
    base: Path, mixture: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train_here(run, mixture, tiny_recipe(base, max_steps=2, save_every=1))
    longer = tiny_recipe(base, max_steps=4, save_every=1, resume_from="checkpoint-1")
    for recipe, steps in ((longer, [2, 3, 4]), (longer.model_copy(update={"max_steps": 5}), [5])):
        events = Events()
        assert train_here(run, mixture, recipe, events).adapter == f"checkpoint-{steps[-1]}"
        assert events.steps("checkpoint") == steps
        assert any(f"at step {steps[0] - 1}" in line for line in events.lines())


def frugal(base: Path, **changes: Any) -> Recipe:
    """A recipe that keeps one checkpoint, and no best one."""
    return tiny_recipe(base, **{"save_every": 1, "report_every": 1, "keep_last": 1, "val_batches": 0} | changes)


@pytest.fixture
def long_run(base: Path, mixture: Path, tmp_path: Path) -> Path:
    train_here(tmp_path / "run", mixture, frugal(base, max_steps=6, keep_last=9))
    return tmp_path / "run"


def test_new_progress_from_an_older_checkpoint_is_kept(long_run: Path, base: Path, mixture: Path) -> None:
    again = frugal(base, max_steps=5, resume_from="checkpoint-2")
    with pytest.raises(Killed):
        train_here(long_run, mixture, again, DiesAt("progress", 4))
    assert steps_of(long_run) == [3], "the one before is pruned, the newest of this course is kept"
    assert steps_of(long_run / "aside") == [3, 4, 5, 6]
    assert json.loads((long_run / "aside" / "result.json").read_text("utf-8"))["adapter"] == "checkpoint-6"
    assert not (long_run / "result.json").exists(), "it would name an adapter that is not there any more"
    # A killed run took nothing away from the bucket of its store, which brings an older checkpoint here again.
    (long_run / "aside" / "checkpoint-6").rename(long_run / "checkpoint-6")
    events = Events()
    result = train_here(long_run, mixture, again, events)
    assert events.steps() == [4, 5], "the course goes on where it was"
    assert result.adapter == "checkpoint-5" and steps_of(long_run) == [5] and steps_of(long_run / "aside-2") == [6]
    earlier = train_here(long_run, mixture, frugal(base, max_steps=6, resume_from="aside-2/checkpoint-6"))
    assert earlier.adapter == "checkpoint-6" and steps_of(long_run) == [6], "the earlier course can be gone back to"


def test_a_damaged_newer_checkpoint_does_not_push_out_what_comes(long_run: Path, base: Path, mixture: Path) -> None:
    for step in (1, 2, 3, 5):
        (long_run / f"checkpoint-{step}").rename(long_run / f"other-{step}")
    (long_run / "checkpoint-6" / "state.json").write_text("{", "utf-8")
    events = DiesAt("progress", 6)
    with pytest.raises(Killed):
        train_here(long_run, mixture, frugal(base, max_steps=8), events)
    assert list_checkpoints(long_run)[-1][0] == 5 and steps_of(long_run / "aside") == [6]
    assert any("belong to an earlier course of the run; moved to" in line for line in events.lines())


TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def test_a_run_goes_on_in_the_layout_that_it_was_trained_in(base: Path, mixture: Path, tmp_path: Path) -> None:
    """A run from before runs recorded their layout spoke User:/Assistant:, whatever template its base has."""
    straight, run, templated = tmp_path / "straight", tmp_path / "run", tmp_path / "templated"
    model = shutil.copytree(base, tmp_path / "model")
    recipe = tiny_recipe(model)
    train_here(straight, mixture, recipe)
    with pytest.raises(Killed):
        train_here(run, mixture, recipe, DiesAt("checkpoint", 3))
    file = run / "checkpoint-3" / "state.json"
    state = json.loads(file.read_text())
    assert state.pop("layout") == "guide" == json.loads((run / "run.json").read_text())["layout"]
    file.write_text(json.dumps(state))

    (model / "chat_template.jinja").write_text(TEMPLATE)
    events = Events()
    train_here(run, mixture, recipe, events)
    assert any("was trained in the layout User:/Assistant: and goes on in it" in line for line in events.lines())
    assert state_of(run, 6)["layout"] == UNRECORDED
    assert all(bool(mx.array_equal(a, tensors(straight, 6)[name])) for name, a in tensors(run, 6).items())

    with pytest.raises(Killed):
        train_here(templated, mixture, recipe, DiesAt("checkpoint", 3))
    assert state_of(templated, 3)["layout"].startswith("template sha256:")
    assert trained_layout(templated / "checkpoint-3") == state_of(templated, 3)["layout"]
    assert not bool(mx.array_equal(*(tensors(folder, 3)[next(iter(tensors(run, 3)))] for folder in (run, templated))))
