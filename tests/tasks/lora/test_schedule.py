from __future__ import annotations

from itertools import pairwise

import pytest

from tasks.lora.recipe import Recipe
from tasks.lora.schedule import learning_rate_at


def test_warm_up_then_cosine_to_a_tenth() -> None:
    recipe = Recipe(max_steps=100, learning_rate=1e-3, warmup_share=0.1)
    rates = [learning_rate_at(recipe, step) for step in range(101)]
    assert rates[0] == pytest.approx(1e-4)
    assert max(rates) == rates[9] == rates[10] == pytest.approx(1e-3)
    assert all(later < earlier for earlier, later in pairwise(rates[10:]))
    assert rates[100] == pytest.approx(1e-4)


def test_constant_rate_without_warm_up() -> None:
    recipe = Recipe(max_steps=10, learning_rate=1e-3, warmup_share=0.0, lr_schedule="constant")
    assert {learning_rate_at(recipe, step) for step in range(10)} == {1e-3}
