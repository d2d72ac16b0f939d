from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models.llama import Model

from storage.errors import ParameterError
from tasks.lora.adapter import attach_adapter, checkpoint_activations, trainable_tensors
from tasks.lora.batches import make_batch
from tasks.lora.cross_entropy import split_head
from tasks.lora.recipe import Recipe
from tasks.lora.step import batch_arrays, batch_sums
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


def test_the_same_seed_gives_the_same_adapter() -> None:
    def tensors(seed: int) -> dict[str, mx.array]:
        model = random_model()
        attach_adapter(model, Recipe(seed=seed, lora_rank=4))
        return trainable_tensors(model)

    first, second, other = tensors(1), tensors(1), tensors(2)
    assert same_bits(first, second)
    assert not same_bits(first, other)


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


def test_gradients_with_dropout_and_recomputing_are_the_slopes_of_the_loss() -> None:
    recipe = Recipe(lora_rank=4, lora_dropout=0.3)
    model: Model = random_model()
    adapter = attach_adapter(model, recipe)
    checkpoint_activations(model)
    model.train()
    adapter.set_dropout_keys(recipe.seed, 7)
    arrays = batch_arrays(make_batch(some_sequences(count=4, longest=40), np.arange(4), 64))
    head = split_head(model)
    generator = np.random.default_rng(2)
    for name, tensor in tree_flatten(model.trainable_parameters()):
        if name.endswith("lora_b"):
            drawn = generator.normal(0, 0.05, tensor.shape).astype(np.float32)
            model.load_weights([(name, mx.array(drawn))], strict=False)
    start = trainable_tensors(model)
    _, gradients = nn.value_and_grad(model, lambda: batch_sums(head, recipe, arrays).objective)()
    gradient = dict(tree_flatten(gradients))

    def loss_at(distance: float, direction: dict[str, mx.array]) -> float:
        moved = [(name, tensor + distance * direction[name]) for name, tensor in start.items()]
        model.load_weights(moved, strict=False)
        return float(batch_sums(head, recipe, arrays).objective)

    for seed in range(3):
        steps = np.random.default_rng(seed)
        direction = {
            name: mx.array(steps.normal(size=tensor.shape).astype(np.float32)) for name, tensor in start.items()
        }
        expected = sum(float((gradient[name] * direction[name]).sum()) for name in start)
        slope = (loss_at(2e-4, direction) - loss_at(-2e-4, direction)) / 4e-4
        assert slope == pytest.approx(expected, rel=0.02, abs=0.02 * norm(gradient))


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


def test_saved_adapter_holds_nothing_but_the_low_rank_tensors() -> None:
    model = random_model()
    attach_adapter(model, Recipe(lora_rank=4, lora_dropout=0.1))
    names = trainable_tensors(model)
    assert {name.rsplit(".", 1)[-1] for name in names} == {"lora_a", "lora_b"} and len(names) == 28
