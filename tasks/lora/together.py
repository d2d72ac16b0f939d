"""One of several processes that train one adapter: ``mlx.launch -n 2 -- python -m tasks.lora.together SPEC``.

The specification is the one of ``python -m tasks.lora`` (a run's ``train.json``). All processes read the same store,
take their rows of every batch and keep the same adapter; the first one writes and speaks. With n processes, a run is
the run of one process whose batch size is n times as large.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from storage.events import Emit, serve_specification
from tasks.lora.__main__ import PATIENCE_SECONDS, check_memory, only_training, read_recipe
from tasks.lora.machine import awake
from tasks.lora.ranks import Ranks


def work(specification: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Take part in the training that is specified."""
    recipe = read_recipe(specification["recipe"])
    run = Path(specification["run_folder"])
    ranks = Ranks.join()
    with only_training_together(ranks, run, emit), awake():
        with ranks.voice(run, emit) as (_, voice):
            check_memory(recipe, voice)
        from tasks.lora.trainer import train

        return train(run, Path(specification["balanced_folder"]), specification["mixture_digest"], recipe, emit)


@contextmanager
def only_training_together(ranks: Ranks, run: Path, emit: Emit) -> Iterator[None]:
    """Hold the store's training slot, all processes as one: the leading one takes it, the others wait for that.

    They ask from time to time: waiting in a sum, which may be for days, would keep a core busy.

    Raises:
        StoreError: A link lies in the place of the lock.
    """
    if not ranks.leads:
        while not ranks.count(0):
            time.sleep(PATIENCE_SECONDS)
        yield
        return
    with only_training(run.parent, emit, still_waiting=lambda: ranks.count(0)):
        ranks.count(1)
        yield


if __name__ == "__main__":
    raise SystemExit(serve_specification(work))
