from __future__ import annotations

import pytest

from storage.errors import ParameterError
from tasks.lora.presets import load_presets, machine_memory_gb, recipe_for, repository_of, suggest_preset
from tasks.lora.recipe import DEFAULT_MODEL


@pytest.mark.parametrize("name", list(load_presets()))
def test_every_preset_makes_a_recipe(name: str) -> None:
    preset, recipe = load_presets()[name], recipe_for(name)
    assert (recipe.model, recipe.batch_size, recipe.max_steps) == (name, preset.batch_size, preset.max_steps)
    assert repository_of(name) == preset.repo


def test_presets_are_the_guides() -> None:
    presets = load_presets()
    assert presets["r1-distill-70b"].repo == DEFAULT_MODEL
    assert {preset.tier: preset.memory_gb for preset in presets.values()} == {
        "large": 64,
        "medium": 32,
        "entry": 16,
        "test": 8,
    }
    assert recipe_for("llama-8b-abliterated").batch_size == 4
    assert recipe_for("llama-8b-abliterated", batch_size=1).batch_size == 1


@pytest.mark.parametrize(
    ("memory", "name"),
    [
        (192, "r1-distill-70b"),
        (64, "r1-distill-70b"),
        (62, "r1-distill-70b"),
        (48, "r1-distill-32b"),
        (16, "llama-8b-abliterated"),
        (8, "mistral-7b-test"),
    ],
)
def test_preset_by_memory(memory: float, name: str) -> None:
    assert suggest_preset(memory).name == name


def test_too_little_memory_and_unknown_names() -> None:
    with pytest.raises(ParameterError, match=r"4\.0 GB .*8 GB of the smallest preset"):
        suggest_preset(4)
    with pytest.raises(ParameterError, match="'gpt-9' is unknown; choose one of r1-distill-70b"):
        recipe_for("gpt-9")
    assert repository_of("some/other-model") == "some/other-model"
    assert machine_memory_gb() > 0.5
