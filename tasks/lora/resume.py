"""The state of a run between two processes: what is saved, what may change, where to continue."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_unflatten
from pydantic import BaseModel, ConfigDict, Field

from storage.chat_layout import UNRECORDED, ChatLayout, Tokenizer
from storage.checkpoint import STATE, damaged_files, list_checkpoints, read_state
from storage.errors import ParameterError, PrerequisiteError, StoreError
from storage.model_folder import ADAPTERS, read_header
from storage.training_result import RESULT, BestStep, TrainingResult
from storage.untrusted import read_object
from tasks.lora.adapter import trainable_tensors
from tasks.lora.recipe import Recipe
from tasks.lora.validation import Validation

OPTIMIZER = "optimizer.safetensors"


class RunState(BaseModel):
    """``state.json`` of a checkpoint. Order, dropout and rate are functions of seed and step, so no more is needed."""

    model_config = ConfigDict(protected_namespaces=())

    step: int = 0
    cursor: int = 0
    """Micro-batches consumed since the run began."""
    tokens: int = 0
    processes: int = 1
    """Processes that train together; with another number, the same cursor means other batches."""
    Z: float = Field(allow_inf_nan=False)
    recipe: dict[str, Any]
    recipe_digest: str
    data_digest: str
    base: str
    """Digest of the base model's configuration and weights."""
    layout: str = UNRECORDED
    """How the base model was spoken to; see `storage.chat_layout.ChatLayout.name`."""
    device: dict[str, str]
    seconds: float = 0.0
    train_ce: float | None = None
    valid_before: dict[str, float] | None = None
    best: BestStep | None = None
    lowest_objective: float | None = None
    validation_pending: bool = False
    """Whether a stop interrupted this step's validation; the process that continues does it first."""
    no_better: int = 0
    """Validations in a row without a lower objective."""
    skipped: int = 0
    """Steps whose loss or gradient was not finite."""
    skipped_in_a_row: int = 0
    resumed_from: str | None = None

    def count_step(self, done: bool, batches: int, tokens: int) -> None:
        """Count a step; not `done`: its loss or gradient was not finite."""
        self.step += 1
        self.cursor += batches
        self.tokens += tokens
        self.skipped += not done
        self.skipped_in_a_row = 0 if done else self.skipped_in_a_row + 1

    def count_validation(self, result: Validation | None) -> None:
        """Count a validation of this step; none if there was nothing to measure."""
        self.validation_pending = False
        if result is None:
            return
        if self.lowest_objective is None or result.objective < self.lowest_objective:
            self.lowest_objective, self.no_better = result.objective, 0
        else:
            self.no_better += 1

    def note_best(self, result: Validation | None) -> None:
        """Note this step as the best, if its validation says so; for a step that is saved."""
        if result is not None and (self.best is None or result.objective < self.best.valid_objective):
            self.best = BestStep(step=self.step, valid_objective=result.objective, valid_ce=result.ce)


def layout_of_run(checkpoint: Path | None, tokenizer: Tokenizer, log: Callable[[str], None]) -> ChatLayout:
    """Return the chat layout of a run: the base model's own, or the one that its checkpoint was trained in."""
    own = ChatLayout(tokenizer)
    if checkpoint is None:
        return own
    layout = ChatLayout(tokenizer, read_run_state(checkpoint).layout)
    if own.templated and not layout.templated:
        log(
            f"{checkpoint} was trained in the layout User:/Assistant: and goes on in it; choose another run name to "
            "train in the base model's own chat template"
        )
    return layout


def resume(
    checkpoint: Path | None, recipe: Recipe, fresh: RunState, model: nn.Module, optimizer: optim.Optimizer
) -> tuple[RunState, list[str]]:
    """Restore adapter and optimiser of the checkpoint to continue from, if there is one; raises as `check_same_run`.

    Returns the state to go on from, `fresh` if there is no checkpoint, and lines that say where the run continues.
    """
    if checkpoint is None:
        return fresh, []
    state = read_run_state(checkpoint)
    check_same_run(state, fresh, checkpoint, recipe.max_steps)
    restore_tensors(checkpoint, model, optimizer)
    lines = [f"Resuming from {checkpoint} at step {state.step}"]
    if state.device != fresh.device:
        lines.append(
            "The checkpoint comes from another device or library version: its last bits may differ from now on"
        )
    state.device, state.resumed_from = fresh.device, fresh.resumed_from
    return state, lines


def read_run_state(checkpoint: Path) -> RunState:
    """Read the state of a checkpoint; StoreError if the folder is not a whole checkpoint of this trainer."""
    return read_state(checkpoint, RunState)


def newest_sound_checkpoint(run: Path, resumed_from: str | None, log: Callable[[str], None]) -> Path | None:
    """Return the newest undamaged checkpoint, if any; only of the course that began at a named one, if one is named."""
    for _, folder in reversed(list_checkpoints(run)):
        try:
            if resumed_from is not None and read_run_state(folder).resumed_from != resumed_from:
                continue
            damaged = damaged_files(folder)
        except StoreError:
            damaged = [STATE]
        if not damaged:
            return folder
        log(f"{folder.name} is damaged ({', '.join(damaged)}); an older checkpoint is used")
    return None


def find_checkpoint(run: Path, recipe: Recipe, log: Callable[[str], None]) -> Path | None:
    """Return the checkpoint to continue from: the one asked for, else the run's newest sound one.

    A run that was started from a named checkpoint and stopped later continues from the newest one of that course.
    """
    newest = newest_sound_checkpoint(run, recipe.resume_from, log)
    if recipe.resume_from is None or newest is not None:
        return newest
    named = Path(recipe.resume_from).expanduser()
    found = [folder for folder in (run / named, named) if (folder / STATE).is_file()]
    if not found:
        names = [folder.name for _, folder in list_checkpoints(run)]
        raise StoreError(
            f"resume_from {recipe.resume_from!r} is not a complete checkpoint of {run}; "
            f"{f'the newest is {names[-1]}' if names else 'the run has none yet: leave resume_from empty'}"
        )
    if damaged := damaged_files(found[0]):
        raise StoreError(f"{found[0]} is damaged ({', '.join(damaged)}); resume from another checkpoint")
    return found[0]


def check_same_run(state: RunState, wanted: RunState, checkpoint: Path, max_steps: int) -> None:
    """Raise ParameterError or StoreError, naming what differs, for a checkpoint of other settings or data."""
    before, now = state.recipe, wanted.recipe
    differing = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    if differing:
        changes = "; ".join(f"{name} was {before.get(name)!r}, is {now.get(name)!r}" for name in differing)
        raise ParameterError(
            f"{checkpoint} was trained with another recipe ({changes}); set these back, or choose another run name"
        )
    other = "choose another run name"
    if state.data_digest != wanted.data_digest:
        digests = f"{state.data_digest[:12]}, now {wanted.data_digest[:12]}"
        raise StoreError(f"{checkpoint} was trained on another mixture ({digests}); {other}")
    if state.base != wanted.base:
        raise StoreError(f"{checkpoint} was trained on other base weights of the same name; {other}")
    if state.processes != wanted.processes:
        raise ParameterError(
            f"{checkpoint} was trained by {state.processes} processes together, now there are {wanted.processes}; "
            f"launch as many as before, or {other}"
        )
    if state.step > max_steps:
        raise ParameterError(
            f"{checkpoint} is at step {state.step}, beyond max_steps {max_steps}; raise max_steps or {other}"
        )


def save_optimizer(folder: Path, optimizer: optim.Optimizer) -> None:
    """Write the optimiser's moments into a checkpoint."""
    mx.save_safetensors(str(folder / OPTIMIZER), dict(tree_flatten(optimizer.state)))


def restore_tensors(checkpoint: Path, model: nn.Module, optimizer: optim.Optimizer) -> None:
    """Load the adapter and the optimiser's moments of a checkpoint; StoreError if they are not this adapter's."""
    saved, moments = _load_tensors(checkpoint / ADAPTERS), _load_tensors(checkpoint / OPTIMIZER)
    expected = {name: tensor.shape for name, tensor in trainable_tensors(model).items()}
    if {name: tensor.shape for name, tensor in saved.items()} != expected:
        raise StoreError(f"{checkpoint} holds the tensors of another adapter; resume from another checkpoint")
    model.load_weights(list(saved.items()), strict=False)
    optimizer.state = tree_unflatten(list(moments.items()))
    mx.eval(model.trainable_parameters(), optimizer.state)


def _load_tensors(file: Path) -> dict[str, mx.array]:
    try:
        read_header(file)  # mlx gets nothing that is not a file, or is cut off
        tensors: Any = mx.load(str(file))
        return dict(tensors)
    except (OSError, RuntimeError, ValueError, PrerequisiteError) as error:
        raise StoreError(f"{file} cannot be read ({error}); resume from another checkpoint") from error


def finished_result(run: Path, recipe: Recipe, data_digest: str) -> TrainingResult | None:
    """Return the result of an earlier run with this recipe and data, if it finished and its adapter is still there.

    One that stopped early is not finished for a recipe that would have stopped at another time.
    """
    try:
        result = TrainingResult.model_validate(read_object(run / RESULT))
    except (FileNotFoundError, ValueError):
        return None
    same = (
        result.recipe_digest == recipe.digest
        and result.data_digest == data_digest
        and result.length == recipe.length
        and result.early_stop in (None, recipe.early_stop)
    )
    return result if same and (run / result.adapter / STATE).is_file() else None
