"""Child process that trains: ``python -m tasks.lora SPECIFICATION.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from storage.errors import ParameterError
from storage.events import Emit, serve_specification
from tasks.lora.recipe import Recipe


def work(specification: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Train as specified: ``run_folder``, ``balanced_folder``, ``mixture_digest`` and ``recipe``."""
    try:
        recipe = Recipe.model_validate(specification["recipe"])
    except ValidationError as error:
        raise ParameterError(f"the recipe does not hold: {error}") from error
    from tasks.lora.trainer import train  # loads mlx, which a bad recipe need not wait for

    run = Path(specification["run_folder"])
    result = train(run, Path(specification["balanced_folder"]), specification["mixture_digest"], recipe, emit)
    return result | {"adapter": str(run / result["adapter"])}


if __name__ == "__main__":
    raise SystemExit(serve_specification(work))
