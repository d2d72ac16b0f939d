from __future__ import annotations

import pytest

from storage.errors import ParameterError
from tasks.lora.presets import load_presets, machine_memory_gb, repository_of, suggest_preset
from tasks.lora.recipe import DEFAULT_MODEL


@pytest.mark.parametrize("name", list(load_presets()))
def test_a_preset_stands_for_its_repository(name: str) -> None:
    assert repository_of(name) == load_presets()[name].repo


def test_presets_are_the_guides() -> None:
    presets = load_presets()
    assert presets["r1-distill-70b"].repo == DEFAULT_MODEL
    assert {preset.tier: preset.memory_gb for preset in presets.values()} == {
        "large": 64,
        "medium": 32,
        "entry": 16,
        "test": 8,
    }
    assert presets["llama-8b-abliterated"].batch_size == 4


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


def test_too_little_memory_and_other_models() -> None:
    with pytest.raises(ParameterError, match=r"4\.0 GB .*8 GB of the smallest preset"):
        suggest_preset(4)
    assert repository_of("some/other-model") == "some/other-model"
    assert machine_memory_gb() > 0.5


@pytest.mark.parametrize("memory", ["much", "0", "-1", "nan", "inf"])
def test_a_memory_that_cannot_be_meant_is_named(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTRUST_MEMORY_GB", memory)
    with pytest.raises(ParameterError, match=f"DISTRUST_MEMORY_GB is '{memory}'; give the machine's memory"):
        machine_memory_gb()
