from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm.models.llama import Model

from storage.errors import ParameterError
from tasks.lora.adapter import attach_adapter, checkpoint_activations, trainable_tensors
from tasks.lora.batches import make_batch
from tasks.lora.recipe import Recipe
from tests.tasks.lora.test_batches import some_sequences
from tests.tasks.lora.test_step import gradient, norm, relative_difference, same_bits
from tests.tasks.lora.tiny_model import random_model


def test_counts_layers_and_the_guides_line() -> None:
    adapter = attach_adapter(random_model(), Recipe(lora_rank=4, lora_layers=1))
    assert adapter.layers == 1
    per_layer = 4 * (2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 64))
    assert adapter.trainable == per_layer
    assert adapter.parameters == 26848
    assert adapter.summary == f"Trainable parameters: {per_layer:,} / 26,848 ({per_layer / 26848:.2%})"
    assert attach_adapter(random_model(), Recipe(lora_layers=-1)).layers == 2
    assert attach_adapter(random_model(), Recipe(lora_layers=16)).layers == 2


def test_the_seed_chooses_the_adapter() -> None:
    models = random_model(), random_model()
    for seed, model in enumerate(models):
        attach_adapter(model, Recipe(seed=seed, lora_rank=4))
    assert not same_bits(*map(trainable_tensors, models))


def test_targets_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ParameterError, match=r"target_modules q_proj do not exist .*choose from mlp.down_proj"):
        attach_adapter(random_model(), Recipe(target_modules=("q_proj",)))
    with pytest.raises(ParameterError, match="lora_layers 0 trains nothing"):
        attach_adapter(random_model(), Recipe(lora_layers=0))


def dropout_gradient(recompute: bool, number: int, quantise: bool = False) -> dict[str, mx.array]:
    model: Model = random_model()
    if quantise:
        nn.quantize(model, group_size=32, bits=4)
    recipe = Recipe(lora_rank=4, lora_dropout=0.3)
    adapter = attach_adapter(model, recipe)
    for _, module in model.named_modules():
        if "lora_b" in module:
            module.lora_b = mx.ones_like(module.lora_b) * 0.02
    if recompute:
        checkpoint_activations(model)
    model.train()
    adapter.set_dropout_keys(recipe.seed, number)
    return gradient(model, make_batch(some_sequences(count=4, longest=40), np.arange(4), 64), recipe)


@pytest.mark.parametrize("quantise", [False, True])
def test_recomputed_activations_see_the_same_dropout(quantise: bool) -> None:
    stored, recomputed = (dropout_gradient(recompute, 3, quantise) for recompute in (False, True))
    assert relative_difference(recomputed, stored) < 1e-6
    assert norm(stored) > 0
    assert relative_difference(dropout_gradient(False, 4, quantise), stored) > 0.01, "the micro-batch chooses the mask"


def test_dropout_is_off_outside_training_and_recomputing_stays_with_its_model() -> None:
    recipe = Recipe(lora_rank=4, lora_dropout=0.5)
    model, other = random_model(), random_model()
    attach_adapter(model, recipe)
    checkpoint_activations(model)
    model.eval()
    tokens = mx.array([[5, 6, 7, 8]])
    assert bool(mx.allclose(model(tokens), other(tokens), atol=1e-5))
    assert type(model.layers[0]).__name__ == "RecomputingTransformerBlock"
    assert type(other.layers[0]).__name__ == "TransformerBlock"
    assert isinstance(model.layers[0], type(other.layers[0]))
