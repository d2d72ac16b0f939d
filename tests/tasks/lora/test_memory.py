"""Predicted peaks against measured ones, and what a plan says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from storage.errors import ParameterError
from tasks.lora.adapter import attach_adapter, checkpoint_activations
from tasks.lora.architecture import Architecture, architecture_of
from tasks.lora.base_model import architecture_of_base
from tasks.lora.batches import Batch, with_anchors
from tasks.lora.lessons import Answer, Pair, term_batches
from tasks.lora.memory import (
    describe_plan,
    plan_memory,
    require_memory,
    savings,
    usable_bytes,
)
from tasks.lora.presets import load_presets
from tasks.lora.recipe import Recipe
from tasks.lora.step import TrainingStep, make_optimizer
from tests.tasks.lora.test_batches import some_sequences
from tests.tasks.lora.tiny_model import CONFIG, random_model, write_base

SMALL = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "head_dim": 32, "vocab_size": 512}
SMALL |= {"num_key_value_heads": 4}
RECIPE = {"lora_rank": 8, "lora_layers": -1, "batch_size": 2, "max_seq_length": 256, "grad_accum": 1}
TOO_LITTLE, TOO_MUCH = 0.95, 1.3
"""An estimate may err upwards, as Metal's fused kernels need less."""


def measured_peak(config: dict[str, Any], recipe: Recipe, dtype: Any) -> int:
    """Train a step on full batches and return the bytes that this took, weights included."""
    mx.clear_cache()
    before = mx.get_active_memory()
    model = random_model(**config)
    model.set_dtype(dtype)
    attach_adapter(model, recipe)
    if recipe.grad_checkpoint:
        checkpoint_activations(model)
    optimizer = make_optimizer(recipe)
    optimizer.init(model.trainable_parameters())
    step = TrainingStep(model, optimizer, recipe)
    rows, length = recipe.batch_size, recipe.max_seq_length
    tokens = np.random.default_rng(0).integers(1, config["vocab_size"], (rows, length + 1)).astype(np.int32)
    ones, count = np.ones(rows, np.float32), rows * length
    mask = np.ones((rows, length), np.float32)
    batch = Batch(tokens, mask, weights=ones, penalties=ones, real_tokens=count, supervised_tokens=count)
    if recipe.anchor_weight:
        batch = with_anchors(batch, some_sequences(rows), np.arange(rows), recipe.seed, 0)
    answers = [Answer(row, length // 2, 1) for row in tokens[[0, -1]]]
    pairs = [Pair(*answers)] * recipe.preference_rows if recipe.preference_weight else []
    mx.eval(model.parameters(), optimizer.state)
    mx.clear_cache()
    mx.reset_peak_memory()
    for _ in range(recipe.grad_accum):
        step.accumulate(batch)
    for lessons in term_batches(pairs, recipe):
        step.accumulate_term(lessons)
    step.update(1e-4)
    step.read_window()
    return int(mx.get_peak_memory() - before)


Case = tuple[dict[str, Any], dict[str, Any], str]
CASES: list[Case] = [
    ({}, {}, "float32"),
    ({}, {"grad_checkpoint": False}, "float32"),
    ({}, {"max_seq_length": 512, "grad_checkpoint": False}, "float32"),
    ({"intermediate_size": 768}, {}, "float32"),
    ({}, {"lora_rank": 64, "grad_accum": 2}, "float32"),
    ({}, {"lora_dropout": 0.1}, "float32"),
    ({"vocab_size": 8192}, {}, "float32"),
    ({"num_hidden_layers": 2}, {"grad_checkpoint": False}, "bfloat16"),
    ({}, {"lora_rank": 64, "preference_weight": 1.0, "batch_size": 1}, "float32"),
    ({"vocab_size": 32768, "num_hidden_layers": 2}, {"max_seq_length": 512, "anchor_weight": 1.0}, "float32"),
]


@pytest.mark.parametrize(("sizes", "changes", "dtype"), CASES)
def test_predicted_peaks_are_those_measured(sizes: dict[str, Any], changes: dict[str, Any], dtype: str) -> None:
    config = SMALL | sizes
    recipe = Recipe.model_validate(RECIPE | changes)
    model = architecture_of(CONFIG | config | {"torch_dtype": dtype})
    assert model is not None
    ratio = plan_memory(model, recipe).total / measured_peak(config, recipe, getattr(mx, dtype))
    assert TOO_LITTLE < ratio < TOO_MUCH, ratio


def test_the_guides_numbers_of_a_70b_model() -> None:
    preset = load_presets()["r1-distill-70b"]
    fields = ("batch_size", "max_seq_length")
    recipe = Recipe(model=preset.name, **{name: getattr(preset, name) for name in fields})
    plan = plan_memory(preset.architecture, recipe)
    assert plan.parameters == 70_553_706_496, "as the guide prints it"
    assert 39e9 < plan.weights < 40e9
    lines = describe_plan(preset.architecture, recipe, usable_bytes(64))
    assert lines[0] == "Trainable parameters: 82,837,504 / 70,553,706,496 (0.12%)"
    assert "of 48.00 GB that training may use: does not fit" in lines[5]
    assert lines[6].startswith("  with batch_size=1 with grad_accum=16: ") and lines[6].endswith("GB, fits")
    with pytest.raises(ParameterError, match=r"may use 48\.00 GB here; set batch_size=1 with grad_accum=16"):
        require_memory(preset.architecture, recipe, usable_bytes(64))


def whole(base: Path) -> Architecture:
    found = architecture_of_base(str(base))
    assert found is not None
    return found


def test_savings_lower_the_peak_and_the_cheapest_comes_first(base: Path) -> None:
    model = whole(base)
    recipe = Recipe(batch_size=8, grad_checkpoint=False, max_seq_length=512, lora_layers=-1)
    total = plan_memory(model, recipe).total
    offered = savings(model, recipe, total - 1)
    assert [saving.change.split("=")[0] for saving in offered[:3]] == ["quantize_base", "grad_checkpoint", "batch_size"]
    assert all(saving.fits and saving.total < total for saving in offered)
    (last,) = savings(model, recipe, 1e6)
    assert not last.fits and "max_seq_length=256" in last.change and "max_seq_length=512" not in last.change
    assert not plan_memory(model, recipe).fits(total - 1) and plan_memory(model, recipe).fits(total)


def test_a_token_budget_bounds_no_sequence_that_is_longer(base: Path) -> None:
    model = whole(base)
    alone = plan_memory(model, Recipe(batch_size=1, max_seq_length=4096))
    assert plan_memory(model, Recipe(batch_tokens=256, max_seq_length=4096)).activations == alone.activations
    assert plan_memory(model, Recipe(batch_tokens=8192, max_seq_length=4096)).activations > alone.activations


def test_a_token_budget_is_halved_where_it_is_what_costs(base: Path) -> None:
    model = whole(base)
    wide = Recipe(batch_tokens=16384, max_seq_length=4096, lora_layers=8, lora_rank=8, quantize_base=False)
    offered = [saving.change for saving in savings(model.in_four_bits(), wide, plan_memory(model, wide).total // 2)]
    assert offered[:2] == [
        "batch_tokens=4096 with grad_accum=32",
        "max_seq_length=2048 with batch_tokens=2048 with grad_accum=64",
    ], "as much to a step as before"
    (last,) = savings(model.in_four_bits(), wide, 1)
    assert last.change == "batch_tokens=256, grad_accum=512, max_seq_length=256"
    narrow = wide.model_copy(update={"batch_tokens": 256})
    offered = [saving.change for saving in savings(model, narrow, plan_memory(model, narrow).total - 1)]
    assert "max_seq_length=2048" in offered and not any("batch_tokens=2048" in change for change in offered)


def test_sizes_come_from_the_files_where_there_are_some(base: Path, tmp_path: Path) -> None:
    model = whole(base)
    assert model.weight_bytes == 4 * 26_848 - 4 * (26_848 - model.parameters)
    assert (model.float_bytes, model.quantised) == (4, False)
    four_bits = architecture_of_base(str(base), quantise=True)
    assert four_bits is not None and four_bits.weight_bytes == round(model.parameters * 4.5 / 8)
    quantised = write_base(tmp_path / "q", quantization={"bits": 4, "group_size": 64})
    assert whole(quantised).in_four_bits() == whole(quantised)
    assert architecture_of({"model_type": "mamba", "hidden_size": 8}) is None
    nested = architecture_of({"text_config": CONFIG})
    assert nested is not None and nested.hidden == 32
    by_layer = architecture_of(CONFIG | {"intermediate_size": [64, 96]})
    assert by_layer is not None and by_layer.intermediate == 96, "as Gemma 3n has them"


@pytest.mark.parametrize(
    "change",
    [
        {"intermediate_size": {}},
        {"intermediate_size": ["wide"]},
        {"num_attention_heads": 0},
        {"vocab_size": -1},
        {"num_hidden_layers": float("inf")},
        {"quantization": {"bits": None}},
        {"quantization": "4bit"},
        {"text_config": None, "hidden_size": None},
    ],
)
def test_sizes_that_make_no_sense_are_not_known(change: dict[str, Any]) -> None:
    found = architecture_of(CONFIG | change)
    assert found is None or change.get("intermediate_size") == {}


def test_unknown_layers_are_taken_to_be_wide(base: Path) -> None:
    model = whole(base)
    assert model.widths("mlp.up_proj") == (32, 64)
    assert model.widths("self_attn.k_proj") == (32, 16)
    assert model.widths("attention.query_key_value") == (32, 64)
