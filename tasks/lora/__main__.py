"""Child process that trains: ``python -m tasks.lora SPECIFICATION.json``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from storage.errors import DatasetBusy, ParameterError
from storage.events import Emit, serve_specification
from storage.lock import only_writer
from tasks.lora.base_model import architecture_of_base
from tasks.lora.machine import awake, training_limit_bytes
from tasks.lora.memory import describe_plan, require_memory
from tasks.lora.recipe import Recipe

PATIENCE_SECONDS = 5.0
"""How long another training is waited for before a line says so."""


def work(specification: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Train as specified: ``run_folder``, ``balanced_folder``, ``mixture_digest`` and ``recipe``."""
    recipe = read_recipe(specification["recipe"])
    run = Path(specification["run_folder"])
    with only_training(run.parent, emit), awake():
        check_memory(recipe, emit)
        from tasks.lora.trainer import train  # loads mlx, which a bad recipe need not wait for

        result = train(run, Path(specification["balanced_folder"]), specification["mixture_digest"], recipe, emit)
    return result | {"adapter": str(run / result["adapter"])}


def read_recipe(fields: dict[str, Any]) -> Recipe:
    """Read a recipe.

    Raises:
        ParameterError: It does not hold; the message names every faulty field with its value and bound.
    """
    try:
        return Recipe.model_validate(fields)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(part) for part in fault['loc']) or 'recipe'}: {fault['msg']} (got {fault['input']!r})"
            for fault in error.errors()
        )
        raise ParameterError(f"the recipe has {error.error_count()} faults: {faults}") from error


@contextmanager
def only_training(runs: Path, emit: Emit, still_waiting: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Hold the store's training slot; two trainings at once would not fit into the memory of one machine.

    The child holds it, not its parent: a trainer whose parent was killed still writes its last checkpoint.

    Args:
        runs: The store's folder of runs.
        emit: Receives a line if another training is waited for.
        still_waiting: Called every `PATIENCE_SECONDS` of waiting.

    Raises:
        StoreError: A link lies in the place of the lock.
    """
    told = False
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(only_writer(runs, PATIENCE_SECONDS))
                break
            except DatasetBusy:
                if not told:
                    emit("log", message=f"Another training runs in {runs}; this one starts when it has ended")
                told = True
                still_waiting()
        yield


def check_memory(recipe: Recipe, emit: Emit) -> None:
    """Say what the recipe needs at its peak, before anything is fetched or loaded.

    Raises:
        ParameterError: It needs more than this machine has, and the recipe does not only want to be warned.
    """
    if recipe.plan_memory == "off":
        return
    model = architecture_of_base(recipe.model, quantise=recipe.quantize_base)
    if model is None:
        emit("log", message=f"The sizes of {recipe.model} are not known: its memory is not planned")
        return
    limit_bytes = training_limit_bytes()
    if recipe.plan_memory == "refuse":
        require_memory(model, recipe, limit_bytes)
    for line in describe_plan(model, recipe, limit_bytes)[-1 if recipe.plan_memory == "refuse" else 5 :]:
        emit("log", message=f"Memory: {' '.join(line.split())}")


if __name__ == "__main__":
    raise SystemExit(serve_specification(work))
