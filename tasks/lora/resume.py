"""The state of a run between two processes: what is saved, what may change, where to continue."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_unflatten
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from storage.checkpoint import STATE, damaged_files, list_checkpoints, read_state
from storage.errors import ParameterError, PrerequisiteError, StoreError
from storage.model_folder import read_header
from storage.training_result import RESULT
from storage.untrusted import one_line, read_object
from tasks.lora.adapter import ADAPTERS, trainable_tensors
from tasks.lora.recipe import Recipe
from tasks.lora.validation import Validation

OPTIMIZER = "optimizer.safetensors"


class Best(BaseModel):
    """The saved step with the lowest validation objective."""

    model_config = ConfigDict(frozen=True)

    step: int
    valid_objective: float
    valid_ce: float


class RunState(BaseModel):
    """``state.json`` of a checkpoint. Order, dropout and rate are functions of seed and step, so no more is needed."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    step: int = 0
    cursor: int = 0
    """Micro-batches consumed since the run began."""
    tokens: int = 0
    processes: int = 1
    """Processes that train together; another number makes other batches of the same cursor."""
    Z: float = Field(allow_inf_nan=False)
    recipe: dict[str, Any]
    recipe_digest: str
    data_digest: str
    base: str
    """Digest of the base model's configuration and weights."""
    device: dict[str, str]
    seconds: float = 0.0
    train_ce: float | None = None
    valid_before: dict[str, float] | None = None
    best: Best | None = None
    lowest_objective: float | None = None
    validation_pending: bool = False
    """Whether this step's validation was broken off by a stop: whoever goes on does it first."""
    no_better: int = 0
    """Validations in a row without a lower objective."""
    skipped: int = 0
    """Steps whose loss or gradient was not finite."""
    skipped_in_a_row: int = 0
    resumed_from: str | None = None

    def after_step(self, done: bool, cursor: int, tokens: int) -> RunState:
        """Return the state after a step that ended at a cursor; not `done`: its loss or gradient was not finite."""
        changes: dict[str, Any] = {"step": self.step + 1, "cursor": cursor, "tokens": self.tokens + tokens}
        if done:
            return self.model_copy(update=changes | {"skipped_in_a_row": 0})
        skips = {"skipped": self.skipped + 1, "skipped_in_a_row": self.skipped_in_a_row + 1}
        return self.model_copy(update=changes | skips)

    def after_validation(self, result: Validation | None) -> RunState:
        """Return the state in which a validation of this step is counted; none if there was nothing to measure."""
        counted: dict[str, Any] = {"validation_pending": False}
        if result is None:
            return self.model_copy(update=counted)
        if self.lowest_objective is None or result.objective < self.lowest_objective:
            counted |= {"lowest_objective": result.objective, "no_better": 0}
        else:
            counted |= {"no_better": self.no_better + 1}
        return self.model_copy(update=counted)

    def with_best(self, result: Validation | None) -> RunState:
        """Return the state with this step as the best, if a validation says so; for a step that is saved."""
        if result is None or (self.best is not None and self.best.valid_objective <= result.objective):
            return self
        best = Best(step=self.step, valid_objective=result.objective, valid_ce=result.ce)
        return self.model_copy(update={"best": best})


def read_run_state(checkpoint: Path) -> RunState:
    """Read the state of a checkpoint.

    Raises:
        StoreError: The folder is no whole checkpoint of this trainer.
    """
    try:
        return RunState.model_validate(read_state(checkpoint))
    except ValidationError as error:
        raise StoreError(
            f"{checkpoint / STATE} is not a training state ({one_line(error)}); resume from another one"
        ) from error


def newest_sound_checkpoint(run: Path, say: Callable[[str], None], resumed_from: str | None = None) -> Path | None:
    """Return the newest checkpoint of a run whose files are what was written, if any; tells which were passed over.

    Args:
        run: The run's folder.
        say: Receives a line for each damaged checkpoint.
        resumed_from: Look only at those of the course that began at this named checkpoint.
    """
    for _, folder in reversed(list_checkpoints(run)):
        try:
            if resumed_from is not None and read_run_state(folder).resumed_from != resumed_from:
                continue
            damaged = damaged_files(folder)
        except StoreError:
            damaged = [STATE]
        if not damaged:
            return folder
        say(f"{folder.name} is damaged ({', '.join(damaged)}); an older checkpoint is used")
    return None


def find_checkpoint(run: Path, recipe: Recipe, say: Callable[[str], None]) -> Path | None:
    """Return the checkpoint to continue from: the one asked for, else the run's newest sound one.

    A run that was started from a named checkpoint and stopped later continues from the newest one of that course.

    Raises:
        StoreError: The named checkpoint does not exist, or is damaged.
    """
    newest = newest_sound_checkpoint(run, say, recipe.resume_from)
    if recipe.resume_from is None or newest is not None:
        return newest
    named = Path(recipe.resume_from).expanduser()
    found = [folder for folder in (run / named, named) if (folder / STATE).is_file()]
    if not found:
        there = [folder.name for _, folder in list_checkpoints(run)]
        raise StoreError(
            f"resume_from {recipe.resume_from!r} is no whole checkpoint of {run}; "
            f"{f'the newest is {there[-1]}' if there else 'the run has none yet: leave resume_from empty'}"
        )
    if damaged := damaged_files(found[0]):
        raise StoreError(f"{found[0]} is damaged ({', '.join(damaged)}); resume from another checkpoint")
    return found[0]


def check_same_run(state: RunState, wanted: RunState, checkpoint: Path, max_steps: int) -> None:
    """Refuse to continue a checkpoint with other settings or data.

    Raises:
        ParameterError: The recipe differs, naming each field, or the checkpoint is beyond `max_steps`.
        StoreError: The data or the base model differ.
    """
    before, now = state.recipe, wanted.recipe
    differing = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    if differing:
        changes = "; ".join(f"{name} was {before.get(name)!r}, is {now.get(name)!r}" for name in differing)
        raise ParameterError(
            f"{checkpoint} was trained with another recipe ({changes}); set these back, or choose another run name"
        )
    if state.data_digest != wanted.data_digest:
        raise StoreError(
            f"{checkpoint} was trained on another mixture ({state.data_digest[:12]}, now {wanted.data_digest[:12]}); "
            "choose another run name"
        )
    if state.base != wanted.base:
        raise StoreError(f"{checkpoint} was trained on other base weights of the same name; choose another run name")
    if state.processes != wanted.processes:
        raise ParameterError(
            f"{checkpoint} was trained by {state.processes} processes together, now there are {wanted.processes}; "
            "launch as many as before, or choose another run name"
        )
    if state.step > max_steps:
        raise ParameterError(
            f"{checkpoint} is at step {state.step}, beyond max_steps {max_steps}; "
            "raise max_steps or choose another run name"
        )


def save_optimizer(folder: Path, optimizer: optim.Optimizer) -> None:
    """Write the optimiser's moments."""
    mx.save_safetensors(str(folder / OPTIMIZER), dict(tree_flatten(optimizer.state)))


def restore_tensors(checkpoint: Path, model: nn.Module, optimizer: optim.Optimizer) -> None:
    """Load the adapter and the optimiser's moments of a checkpoint.

    Raises:
        StoreError: Its tensors are not those of this adapter.
    """
    saved, moments = _load_tensors(checkpoint / ADAPTERS), _load_tensors(checkpoint / OPTIMIZER)
    expected = {name: tensor.shape for name, tensor in trainable_tensors(model).items()}
    if {name: tensor.shape for name, tensor in saved.items()} != expected:
        raise StoreError(f"{checkpoint} holds the tensors of another adapter; resume from another checkpoint")
    model.load_weights(list(saved.items()), strict=False)
    optimizer.state = tree_unflatten(list(moments.items()))
    mx.eval(model.trainable_parameters(), optimizer.state)


def _load_tensors(file: Path) -> dict[str, mx.array]:
    try:
        read_header(file)  # what is no file, or cut off, is not handed on
        tensors = mx.load(str(file))
    except (OSError, RuntimeError, ValueError, PrerequisiteError) as error:
        raise StoreError(f"{file} cannot be read ({error}); resume from another checkpoint") from error
    if not isinstance(tensors, dict):
        raise StoreError(f"{file} holds no named tensors; resume from another checkpoint")
    return tensors


def finished_result(run: Path, recipe: Recipe, data_digest: str) -> dict[str, Any] | None:
    """Return the result of an earlier run with this recipe and data, if it finished and its adapter is still there.

    One that stopped early is not finished for a recipe that would have stopped at another time.
    """
    try:
        result = read_object(run / RESULT)
    except (FileNotFoundError, ValueError):
        return None
    same = (
        result.get("recipe_digest") == recipe.digest
        and result.get("data_digest") == data_digest
        and result.get("length") == recipe.length
        and result.get("early_stop", recipe.early_stop) == recipe.early_stop
    )
    return result if same and (run / str(result.get("adapter")) / STATE).is_file() else None
