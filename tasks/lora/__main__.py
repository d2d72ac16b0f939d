"""Child process that trains: ``python -m tasks.lora SPECIFICATION.json``, where a run keeps it as ``train.json``.

Several processes train one adapter with ``mlx.launch -n 2 -- python -m tasks.lora SPECIFICATION.json``: all read the
same store, take their rows of every batch and keep the same adapter; the first one writes and reports. With n
processes, a run is the run of one process whose batch size is n times as large.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from storage.errors import DatasetBusy, ParameterError
from storage.events import Emit, serve_specification
from storage.lock import only_writer
from tasks.lora.base_model import architecture_of_base
from tasks.lora.memory import describe_plan, require_memory
from tasks.lora.process import awake, training_limit_bytes
from tasks.lora.recipe import Recipe

if TYPE_CHECKING:
    from tasks.lora.ranks import Ranks

PATIENCE_SECONDS = 5.0
"""How long another training is waited for before a line says so."""


class Specification(BaseModel):
    """What to train, on what, and where to."""

    run_folder: Path
    balanced_folder: Path
    mixture_digest: str
    recipe: Recipe


def work(fields: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Train as a `Specification` says; return the run's result with the whole path of its adapter."""
    wanted = read_specification(fields)
    from tasks.lora.ranks import Ranks  # loads mlx, which a bad recipe need not wait for

    ranks = Ranks.join()
    with only_training(wanted.run_folder.parent, ranks, emit), awake():
        check_memory(wanted.recipe, emit if ranks.leads else lambda event, **fields: None)
        from tasks.lora.trainer import train

        result = train(wanted.run_folder, wanted.balanced_folder, wanted.mixture_digest, wanted.recipe, emit, ranks)
    return result.model_dump(mode="json", exclude_unset=True) | {"adapter": str(wanted.run_folder / result.adapter)}


def read_specification(fields: dict[str, Any]) -> Specification:
    """Read what to do.

    Raises:
        ParameterError: The recipe is wrong; the message names every faulty field with its value and bound.
    """
    try:
        return Specification.model_validate(fields)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc'][1:])) or 'recipe'}: {fault['msg']} (got {fault['input']!r})"
            for fault in error.errors()
        )
        raise ParameterError(f"the recipe has {error.error_count()} faults: {faults}") from error


@contextmanager
def only_training(runs: Path, ranks: Ranks, emit: Emit) -> Iterator[None]:
    """Hold the store's training lock; two trainings at once would not fit into the memory of one machine.

    The child holds it, not its parent: a trainer whose parent was killed still writes its last checkpoint. Of
    processes that train together the leading one holds it; the others ask it from time to time, since waiting in a sum,
    which may be for days, would keep a core busy.

    Raises:
        StoreError: A link is in the place of the lock.
    """
    with ExitStack() as stack:
        waited = False
        while not ranks.leads and not ranks.count(0):
            time.sleep(PATIENCE_SECONDS)
        while ranks.leads:
            try:
                stack.enter_context(only_writer(runs, PATIENCE_SECONDS))
                break
            except DatasetBusy:
                if not waited:
                    emit("log", message=f"Another training runs in {runs}; this one starts when it has ended")
                waited = True
                ranks.count(0)
        if ranks.leads:
            ranks.count(1)
        yield


def check_memory(recipe: Recipe, emit: Emit) -> None:
    """Say what the recipe needs at its peak, before anything is fetched or loaded.

    Raises:
        ParameterError: It needs more than this machine has, and the recipe asks for more than a warning.
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
