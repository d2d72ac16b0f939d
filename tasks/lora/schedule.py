"""The learning rate of a step, as a pure function: a resumed run needs no state for it."""

from __future__ import annotations

import math

from tasks.lora.recipe import Recipe

FINAL_SHARE = 0.1


def warmup_steps(recipe: Recipe) -> int:
    """Return the number of steps over which the rate rises."""
    return round(recipe.warmup_share * recipe.max_steps)


def learning_rate_at(recipe: Recipe, step: int) -> float:
    """Return the rate of a step.

    Args:
        recipe: Peak, shape, warm-up share and number of steps.
        step: The step about to be done, from 0.
    """
    warm = warmup_steps(recipe)
    if step < warm:
        return recipe.learning_rate * (step + 1) / warm
    if recipe.lr_schedule == "constant":
        return recipe.learning_rate
    progress = min(1.0, (step - warm) / max(1, recipe.max_steps - warm))
    return recipe.learning_rate * (FINAL_SHARE + (1.0 - FINAL_SHARE) * 0.5 * (1.0 + math.cos(math.pi * progress)))
