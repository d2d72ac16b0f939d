from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from storage.errors import ParameterError
from tasks.lora.memory import machine_memory_gb
from tasks.lora.presets import load_presets, repository_of, resolve_model, suggest_preset
from tasks.lora.recipe import DEFAULT_MODEL, FREE_FIELDS, Recipe


def test_defaults_are_the_guides() -> None:
    guide = {
        "model": "huihui-ai/DeepSeek-R1-Distill-Llama-70B-abliterated",
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
    recipe = Recipe()
    assert {name: getattr(recipe, name) for name in guide} == guide
    assert recipe.update_scale == 2.0


def test_all_errors_come_at_once() -> None:
    with pytest.raises(ValidationError, match=r"alpha\n.*or equal to 2\.3") as caught:
        Recipe.model_validate({"alpha": 2.2, "lambda_weight": -1, "batch_size": 0, "no_such_field": 1})
    assert {error["loc"][0] for error in caught.value.errors()} == {
        *("alpha", "lambda_weight", "batch_size", "no_such_field")
    }
    with pytest.raises(ValidationError, match=r"early_stop needs validations.*additive objective has none"):
        Recipe(early_stop=2, val_batches=0, sampling="importance", objective="additive")


def test_epochs_become_steps_once_the_data_are_known() -> None:
    recipe = Recipe(epochs=2.5, batch_size=4, grad_accum=2)
    assert recipe.for_sequences(33).max_steps == 12, "2.5 epochs of 9 batches, two to a step"
    assert recipe.for_sequences(1).max_steps == 2
    assert Recipe(max_steps=7).for_sequences(33).max_steps == 7


def test_every_field_makes_a_form() -> None:
    for field, info in Recipe.model_fields.items():
        assert info.title and info.description and "\n" not in info.description, field
        schema: dict[str, Any] = Recipe.model_json_schema()["properties"][field]
        if info.annotation in (int, float):
            assert {"minimum", "exclusiveMinimum"} & schema.keys() and "maximum" in schema, field


def test_free_fields_do_not_change_the_digest_and_others_do() -> None:
    assert set(Recipe.model_fields) >= FREE_FIELDS
    free: dict[str, Any] = {"max_steps": 9, "save_every": 3, "thermal_throttle": 0.1, "resume_from": "checkpoint-3"}
    assert Recipe(**free, epochs=2.5).digest == Recipe().digest, "a run may go on for longer"
    assert len({Recipe().digest, Recipe(alpha=2.8).digest, Recipe(seed=1).digest}) == 3


def test_a_term_that_is_off_is_in_no_digest_so_that_runs_from_before_there_were_terms_go_on() -> None:
    assert Recipe().digest == "fa9d6d704e23475b807b70faa0fafef083865d915bda699fe3bba9d6aadbcee9"
    assert Recipe(preference_rows=7, consistency_rows=2).digest == Recipe().digest
    on = [Recipe(preference_weight=1), Recipe(preference_weight=1, preference_rows=7), Recipe(anchor_weight=1)]
    assert len({recipe.digest for recipe in [Recipe(), *on]}) == 4
    assert Recipe(preference_weight=2, anchor_weight=1).term_weights == {"preference": 2.0, "anchor": 1.0}


def test_presets_are_the_guides() -> None:
    presets = load_presets()
    assert presets["r1-distill-70b"].repo == DEFAULT_MODEL
    assert [(one.tier, one.memory_gb) for one in presets.values()] == [
        *(("large", 64), ("medium", 32), ("entry", 16), ("test", 8))
    ]
    assert presets["llama-8b-abliterated"].batch_size == 4
    assert all(repository_of(name) == preset.repo for name, preset in presets.items())
    assert repository_of("some/other-model") == "some/other-model"


def test_auto_keeps_what_was_chosen_otherwise() -> None:
    assert resolve_model(Recipe(), 16) == Recipe()
    chosen = resolve_model(Recipe(model="auto", batch_size=3, max_seq_length=256), 16)
    assert (chosen.model, chosen.batch_size, chosen.max_seq_length) == ("llama-8b-abliterated", 3, 256)
    assert suggest_preset(62).name == "r1-distill-70b", "a machine sold with 64 GB reports a little less"
    smaller = resolve_model(Recipe(model="auto"), 64)
    assert (smaller.batch_size, smaller.grad_accum) == (1, 16), "as many sequences to a step"
    budgeted = resolve_model(Recipe(model="auto", batch_tokens=4096), 64)
    assert (budgeted.batch_tokens, budgeted.grad_accum) == (4096, 8), "single sequences would save nothing"


def test_too_little_memory_and_a_memory_that_cannot_be_meant_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine_memory_gb() > 0.5
    with pytest.raises(ParameterError, match=r"4\.0 GB .*8 GB of the smallest preset"):
        suggest_preset(4)
    for memory in ("much", "0", "-1", "nan", "inf"):
        monkeypatch.setenv("DISTRUST_MEMORY_GB", memory)
        with pytest.raises(ParameterError, match=f"DISTRUST_MEMORY_GB is '{memory}'; give the machine's memory"):
            machine_memory_gb()
