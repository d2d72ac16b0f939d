"""One of several processes that train one adapter: ``mlx.launch -n 2 -- python -m tasks.lora.together SPEC``.

The specification is the one of ``python -m tasks.lora`` (a run's ``train.json``). All processes read the same store,
take their rows of every batch and keep the same adapter; the first one writes and speaks. With n processes, a run is
the run of one process whose batch size is n times as large.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from storage.events import Emit, serve_specification
from tasks.lora.recipe import Recipe


def work(specification: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Take part in the training that is specified."""
    from tasks.lora.trainer import train

    run = Path(specification["run_folder"])
    recipe = Recipe.model_validate(specification["recipe"])
    return train(run, Path(specification["balanced_folder"]), specification["mixture_digest"], recipe, emit)


if __name__ == "__main__":
    raise SystemExit(serve_specification(work))
