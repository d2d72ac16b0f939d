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
from typing import TYPE_CHECKING

from storage.errors import DatasetBusy
from storage.events import Emit, serve_specification
from storage.lock import only_writer
from storage.training_result import TrainingResult
from tasks.lora.base_model import architecture_of_base
from tasks.lora.memory import describe_plan, require_memory
from tasks.lora.process import awake, training_limit_bytes
from tasks.lora.recipe import Recipe, Specification

if TYPE_CHECKING:
    from tasks.lora.ranks import Ranks

PATIENCE_SECONDS = 5.0
"""How long another training is waited for before a line says so."""


def work(wanted: Specification, emit: Emit) -> TrainingResult:
    """Train as specified; return the run's result with the whole path of its adapter."""
    from tasks.lora.ranks import Ranks  # loads mlx, which a bad recipe need not wait for

    ranks = Ranks.join()
    with only_training(wanted.run_folder.parent, ranks, emit), awake():
        check_memory(wanted.recipe, emit if ranks.leads else lambda event, **fields: None)
        from tasks.lora.trainer import train

        result = train(wanted.run_folder, wanted.balanced_folder, wanted.mixture_digest, wanted.recipe, emit, ranks)
    return result.model_copy(update={"adapter": str(wanted.run_folder / result.adapter)})


@contextmanager
def only_training(runs: Path, ranks: Ranks, emit: Emit) -> Iterator[None]:
    """Hold the store's training lock; two trainings at once would not fit into the memory of one machine.

    The child holds it, not its parent: a trainer whose parent was killed still writes its last checkpoint. Of
    processes that train together the leading one holds it; the others ask it from time to time, since waiting in a sum,
    which may be for days, would keep a core busy.
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
    """Say what the recipe needs at its peak before anything is fetched or loaded; refuse as `plan_memory` asks."""
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
    raise SystemExit(serve_specification(work, Specification))
