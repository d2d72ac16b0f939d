"""What a run writes about itself: a record when it begins, a result when it has finished."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.lora.adapter import Adapter
from tasks.lora.base_model import public_name
from tasks.lora.data import TrainingData
from tasks.lora.loaded_base import LoadedBase
from tasks.lora.recipe import Recipe
from tasks.lora.resume import RunState
from tasks.lora.validation import Validation


def run_record(
    recipe: Recipe, base: LoadedBase, balanced: Path, state: RunState, data: TrainingData, adapter: Adapter
) -> dict[str, Any]:
    """Return what evaluation and export need to know of a run."""
    return {
        "model": public_name(recipe.model),
        "model_path": str(base.path),
        "balanced": str(balanced.resolve()),
        "mixture_digest": state.data_digest,
        "recipe": recipe.model_dump(mode="json"),
        **data.facts(),
        "trainable": adapter.trainable,
        "parameters": adapter.parameters,
        "device": state.device,
    }


def run_result(
    recipe: Recipe, base: LoadedBase, state: RunState, data: TrainingData, adapter: Adapter, last: Validation | None
) -> dict[str, Any]:
    """Return what a finished run reached; `last` is its last validation."""
    before, after = state.valid_before or {}, {} if last is None else last.fields()
    return {
        "steps": state.step,
        "length": recipe.length,
        "early_stop": recipe.early_stop,
        "adapter": f"checkpoint-{state.step}",
        "best": state.best.model_dump() if state.best else None,
        "model": public_name(recipe.model),
        "model_path": str(base.path),
        "train_ce": state.train_ce,
        **{f"{name}_before": value for name, value in before.items()},
        **{f"{name}_after": value for name, value in after.items()},
        "trainable": adapter.trainable,
        "parameters": adapter.parameters,
        **data.facts(),
        "trained_tokens": state.tokens,
        "skipped_steps": state.skipped,
        "seconds": round(state.seconds, 3),
        "recipe_digest": state.recipe_digest,
        "data_digest": state.data_digest,
    }
