from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from tasks.lora.recipe import FREE_FIELDS, Recipe


def test_defaults_are_the_guides() -> None:
    recipe = Recipe()
    assert recipe.model == "huihui-ai/DeepSeek-R1-Distill-Llama-70B-abliterated"
    guide = {
        "batch_size": 2,
        "max_steps": 5000,
        "alpha": 2.7,
        "lambda_weight": 1.0,
        "learning_rate": 2e-4,
        "lora_rank": 32,
        "lora_alpha": 64,
        "grad_accum": 8,
        "max_seq_length": 1024,
        "lora_layers": 16,
        "grad_checkpoint": True,
        "thermal_throttle": 0.0,
        "resume_from": None,
    }
    assert {name: getattr(recipe, name) for name in guide} == guide
    assert recipe.update_scale == 2.0


def test_all_errors_come_at_once() -> None:
    with pytest.raises(ValidationError) as caught:
        Recipe.model_validate({"alpha": 2.0, "lambda_weight": -1, "batch_size": 0, "no_such_field": 1})
    assert {error["loc"][0] for error in caught.value.errors()} == {
        "alpha",
        "lambda_weight",
        "batch_size",
        "no_such_field",
    }


def test_choices_that_contradict_each_other_are_told_at_once() -> None:
    with pytest.raises(ValidationError, match=r"early_stop needs validations.*additive objective has none"):
        Recipe(early_stop=2, val_batches=0, sampling="importance", objective="additive")


def test_epochs_become_steps_once_the_data_are_known() -> None:
    recipe = Recipe(epochs=2.5, batch_size=4, grad_accum=2)
    assert recipe.for_sequences(33).max_steps == 12, "2.5 epochs of 9 batches, two to a step"
    assert recipe.for_sequences(1).max_steps == 2
    assert Recipe(max_steps=7).for_sequences(33).max_steps == 7
    assert recipe.digest == Recipe(batch_size=4, grad_accum=2).digest, "a run may go on for longer"


@pytest.mark.parametrize(("field", "value", "bound"), [("alpha", 2.2, "2.3"), ("alpha", 3.1, "3")])
def test_alpha_outside_the_published_range_names_the_bound(field: str, value: float, bound: str) -> None:
    with pytest.raises(ValidationError, match=f"{field}\n.*or equal to {bound}"):
        Recipe.model_validate({field: value})


@pytest.mark.parametrize("field", sorted(Recipe.model_fields))
def test_every_field_makes_a_form(field: str) -> None:
    info = Recipe.model_fields[field]
    assert info.title
    assert info.description
    schema: dict[str, Any] = Recipe.model_json_schema()["properties"][field]
    if info.annotation in (int, float):
        assert {"minimum", "exclusiveMinimum"} & schema.keys()
        assert "maximum" in schema


def test_free_fields_do_not_change_the_digest_and_others_do() -> None:
    recipe = Recipe()
    assert set(Recipe.model_fields) >= FREE_FIELDS
    free = Recipe(max_steps=9, save_every=3, thermal_throttle=0.1, resume_from="checkpoint-3", eval_every=7)
    assert free.digest == recipe.digest
    assert Recipe(alpha=2.8).digest != recipe.digest
    assert Recipe(seed=1).digest != recipe.digest


def test_recipe_and_presets_leave_mlx_alone() -> None:
    code = "import sys, tasks.lora.recipe, tasks.lora.presets; sys.exit('mlx.core' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
