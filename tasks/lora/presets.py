"""Named base models, by the memory of the machine that they fit."""

from __future__ import annotations

import os
import tomllib
from functools import cache
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from storage.errors import ParameterError
from tasks.lora.architecture import Architecture, architecture_of
from tasks.lora.memory import machine_memory_gb, plan_memory, single_sequences, usable_bytes
from tasks.lora.recipe import AUTO, PRESETS_FILE, Recipe


class Preset(BaseModel):
    """A base model with the settings that suit its tier."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    tier: Literal["large", "medium", "entry", "test"]
    repo: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    parameters_billion: float = Field(gt=0)
    memory_gb: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    max_seq_length: int = Field(Recipe.model_fields["max_seq_length"].default, ge=8)
    config: dict[str, Any]
    """The sizes in the repository's ``config.json``."""
    note: str

    @property
    def architecture(self) -> Architecture:
        """Sizes of the 4-bit model that is trained."""
        sizes = architecture_of(self.config)
        assert sizes is not None, f"preset {self.name} lacks sizes"
        return sizes.in_four_bits()


@cache
def load_presets() -> dict[str, Preset]:
    """Read the bundled presets, in the file's order (largest first)."""
    entries = tomllib.loads(PRESETS_FILE.read_text("utf-8"))
    return {name: Preset(name=name, **fields) for name, fields in entries.items()}


def preset_of(model: str) -> Preset | None:
    """Return the preset of a name or of a Hugging Face id, if there is one."""
    return next((preset for preset in load_presets().values() if model in (preset.name, preset.repo)), None)


def repository_of(model: str) -> str:
    """Return the Hugging Face id of a preset; any other value is returned as it is."""
    preset = preset_of(model)
    return preset.repo if preset else model


def resolve_model(recipe: Recipe, memory_gb: float | None = None) -> Recipe:
    """Replace the model ``auto`` by the preset of this machine's memory; any other recipe stays as it is.

    The preset brings its batch size and sequence length, unless the recipe names others than the defaults. Should its
    peak not fit, the batches become single sequences, as many of them to a step as before; a token budget stays.
    """
    if recipe.model != AUTO:
        return recipe
    preset = suggest_preset(memory_gb)
    resolved = recipe.model_copy(update={"model": preset.name})
    for name in ("batch_size", "max_seq_length"):
        if getattr(recipe, name) == Recipe.model_fields[name].default:
            resolved = resolved.model_copy(update={name: getattr(preset, name)})
    counted = resolved.batch_tokens is None and resolved.batch_size > 1
    if counted and not plan_memory(preset.architecture, resolved).fits(usable_bytes(memory_gb)):
        resolved = resolved.model_copy(update=single_sequences(resolved))
    return resolved


def suggest_preset(memory_gb: float | None = None) -> Preset:
    """Pick the largest preset that fits a machine, or the one of ``DISTRUST_PRESET``; ParameterError if none does."""
    presets = load_presets()
    if memory_gb is None and (named := os.environ.get("DISTRUST_PRESET")):
        if named not in presets:
            raise ParameterError(f"DISTRUST_PRESET is {named!r}; choose one of {', '.join(presets)}")
        return presets[named]
    memory = machine_memory_gb() if memory_gb is None else memory_gb
    # A machine sold with 64 GB reports a little less once the firmware took its part.
    fitting = [preset for preset in presets.values() if preset.memory_gb <= memory * 1.05]
    if not fitting:
        smallest = min(presets.values(), key=lambda preset: preset.memory_gb)
        raise ParameterError(
            f"{memory:.1f} GB of memory are less than the {smallest.memory_gb} GB of the smallest preset "
            f"({smallest.name}); name a smaller model folder yourself with model=PATH"
        )
    return max(fitting, key=lambda preset: preset.memory_gb)
