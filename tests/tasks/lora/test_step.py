"""The mathematics of the step, on a real model."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from tasks.lora.adapter import attach_adapter
from tasks.lora.batches import Batch, make_batch
from tasks.lora.cross_entropy import split_head, weighted_cross_entropy
from tasks.lora.loss import trust_weights
from tasks.lora.recipe import Recipe
from tasks.lora.step import TrainingStep, batch_arrays, batch_sums, learning_rate_at, make_optimizer
from tests.tasks.lora.test_batches import some_sequences
from tests.tasks.lora.tiny_model import random_model

Gradient = dict[str, mx.array]


def fresh(recipe: Recipe) -> tuple[nn.Module, TrainingStep]:
    model = random_model()
    attach_adapter(model, recipe)
    return model.train(), TrainingStep(model, make_optimizer(recipe), recipe)


def trainable(model: nn.Module) -> Gradient:
    return {name: mx.array(value) for name, value in tree_flatten(model.trainable_parameters())}


@pytest.fixture(scope="module")
def model() -> nn.Module:
    model, _ = fresh(Recipe(lora_rank=4, lora_alpha=8))
    generator = np.random.default_rng(5)
    for _, module in model.named_modules():
        if "lora_b" in module:  # zero at the start, where half of the gradients vanish
            module.lora_b = mx.array(generator.normal(0, 0.05, module.lora_b.shape).astype(np.float32))
    return model.train()


@pytest.fixture(scope="module")
def batch() -> Batch:
    return make_batch(some_sequences(count=8, longest=60), np.arange(8), 64)


def gradient(model: nn.Module, batch: Batch, recipe: Recipe) -> Gradient:
    # Fused operations, as on a GPU, round otherwise; what is compared to the bit here is not fused.
    step = TrainingStep(model, make_optimizer(recipe), recipe, compiled=False)
    step.accumulate(batch)
    return dict(tree_flatten(step.mean_gradient()))


def plain_gradient(model: nn.Module, batch: Batch) -> Gradient:
    """Cross-entropy alone, through the same projection: no weight, no term, no objective."""
    inputs, places, targets, counted, _, _ = batch_arrays(batch)
    head = split_head(model)

    def plain(inputs: mx.array) -> mx.array:
        states = head.hidden(inputs)
        return weighted_cross_entropy(states.reshape(-1, states.shape[-1])[places], targets, counted, head)[0]

    _, gradients = nn.value_and_grad(model, plain)(inputs)
    return {name: value / batch.supervised_tokens for name, value in tree_flatten(gradients)}


def textbook_gradient(model: nn.Module, batch: Batch) -> Gradient:
    """Cross-entropy of whole logits, differentiated by the library."""
    tokens, mask = mx.array(batch.tokens), mx.array(batch.mask)

    def plain(inputs: mx.array) -> mx.array:
        losses = nn.losses.cross_entropy(model(inputs[:, :-1]), inputs[:, 1:])
        return (losses * mask).sum()

    _, gradients = nn.value_and_grad(model, plain)(tokens)
    return {name: value / batch.supervised_tokens for name, value in tree_flatten(gradients)}


def same_bits(left: Gradient, right: Gradient) -> bool:
    return left.keys() == right.keys() and all(bool(mx.array_equal(left[name], right[name])) for name in left)


def norm(gradients: Gradient) -> float:
    return float(mx.sqrt(sum((value * value).sum() for value in gradients.values())))


def relative_difference(left: Gradient, right: Gradient) -> float:
    return norm({name: left[name] - right[name] for name in left}) / norm(right)


@pytest.mark.parametrize("alpha", [2.3, 2.7, 3.0])
@pytest.mark.parametrize("lambda_weight", [0.0, 0.6, 1.0, 1e4])
def test_the_additive_objective_has_the_gradient_of_plain_cross_entropy(
    model: nn.Module, batch: Batch, alpha: float, lambda_weight: float
) -> None:
    recipe = Recipe(objective="additive", alpha=alpha, lambda_weight=lambda_weight)
    assert same_bits(gradient(model, batch, recipe), plain_gradient(model, batch))
    sums = batch_sums(split_head(model), recipe, batch_arrays(batch))
    objective, ce, distrust = (float(value) for value in sums)
    assert objective == pytest.approx(ce + lambda_weight * distrust, rel=1e-6)
    assert (objective > ce) == (lambda_weight > 0)


def test_the_gradient_is_the_textbooks(model: nn.Module, batch: Batch) -> None:
    ones = replace(batch, weights=np.ones(8, np.float32))
    assert relative_difference(gradient(model, ones, Recipe()), textbook_gradient(model, batch)) < 2e-6


def test_weights_of_one_give_plain_cross_entropy_to_the_bit_and_others_do_not(model: nn.Module, batch: Batch) -> None:
    ones = replace(batch, weights=np.ones(8, np.float32))
    plain = plain_gradient(model, batch)
    assert same_bits(gradient(model, ones, Recipe(lambda_weight=0.0)), plain)
    assert relative_difference(gradient(model, batch, Recipe()), plain) > 0.05


def test_gradient_ratio_at_equal_cross_entropy_is_the_weight_ratio(model: nn.Module, batch: Batch) -> None:
    def alone(weight: float) -> Gradient:
        weights, tokens = np.array([weight], np.float32), int(batch.mask[0].sum())
        one = Batch(batch.tokens[:1], batch.mask[:1], weights, batch.penalties[:1], batch.real_tokens, tokens)
        return gradient(model, one, Recipe())

    primary, coordinated = np.array(trust_weights([0.05, 0.90], [7.5, 1.0]))
    assert norm(alone(primary)) / norm(alone(coordinated)) == pytest.approx(27.02, abs=0.02)


def test_one_batch_of_eight_equals_eight_of_one(model: nn.Module, batch: Batch) -> None:
    recipe = Recipe()
    step = TrainingStep(model, make_optimizer(recipe), recipe)
    data = replace(some_sequences(count=8, longest=60), weights=batch.weights)
    for row in range(8):
        step.accumulate(make_batch(data, np.array([row]), 64))
    accumulated = dict(tree_flatten(step.mean_gradient()))
    assert relative_difference(accumulated, gradient(model, batch, recipe)) < 5e-6


def test_padding_is_not_trained(model: nn.Module, batch: Batch) -> None:
    data = some_sequences(count=8, longest=60)
    other_pad = make_batch(data, np.arange(8), 64, pad_token=77)
    assert (other_pad.tokens != batch.tokens).any()
    assert same_bits(gradient(model, other_pad, Recipe()), gradient(model, batch, Recipe()))


def test_clipping_and_the_first_step_of_adamw(batch: Batch) -> None:
    model, step = fresh(Recipe(lora_rank=4, clip_norm=1e-3, learning_rate=1e-3, weight_decay=0.0))
    before = trainable(model)
    step.accumulate(batch)
    step.update(1e-3)
    means = step.read_window()
    assert means.clipped_share == 1.0 and means.grad_norm > 1e-3
    assert (means.steps, means.skipped) == (1, 0)
    moments = {name: value for name, value in tree_flatten(step._optimizer.state) if name.endswith(".m")}
    assert norm(moments) == pytest.approx(0.1 * 1e-3, rel=0.01), "what the optimiser got was clipped"
    moves = [float(mx.abs(new - before[name]).max()) for name, new in trainable(model).items() if "lora_b" in name]
    assert max(moves) == pytest.approx(1e-3, rel=0.01), "with its bias corrected, the first step is one learning rate"


def test_window_reports_means_per_token(model: nn.Module, batch: Batch) -> None:
    recipe = Recipe(learning_rate=1e-8)
    step = TrainingStep(model, make_optimizer(recipe), recipe)
    sums = [float(value) for value in batch_sums(split_head(model), recipe, batch_arrays(batch))]
    for _ in range(3):
        step.accumulate(batch)
        step.update(1e-8)
    means = step.read_window()
    assert means.ce == pytest.approx(sums[1] / batch.supervised_tokens, rel=1e-4)
    assert means.distrust == pytest.approx(sums[2] / batch.supervised_tokens, rel=1e-4)


@pytest.mark.parametrize("name", ["adamw", "adam", "lion"])
def test_every_optimizer_lowers_the_loss(batch: Batch, name: Any) -> None:
    _, step = fresh(Recipe(lora_rank=4, optimizer=name))
    losses = []
    for _ in range(6):
        step.accumulate(batch)
        step.update(3e-3)
        losses.append(step.read_window().ce)
    assert losses[-1] < losses[0]


def test_a_step_that_is_not_finite_changes_nothing(batch: Batch) -> None:
    model, step = fresh(Recipe(lora_rank=4))

    def snapshot() -> Gradient:
        state = dict(tree_flatten(step._optimizer.state))
        return trainable(model) | {f"optimizer.{name}": mx.array(value) for name, value in state.items()}

    step.accumulate(batch)
    assert step.update(1e-3)
    before = snapshot()
    step.accumulate(batch)
    step.accumulate(replace(batch, weights=np.array([np.inf, *batch.weights[1:]], np.float32)))
    assert not step.update(1e-3)
    assert same_bits(snapshot(), before)
    step.accumulate(batch)
    assert step.update(1e-3), "the next step is sound again"
    means = step.read_window()
    assert (means.steps, means.skipped) == (2, 1)
    assert np.isfinite([means.ce, means.distrust, means.grad_norm]).all()


def test_the_rate_warms_up_and_then_falls_to_a_tenth_or_stays() -> None:
    recipe = Recipe(max_steps=100, learning_rate=1e-3, warmup_share=0.1)
    rates = [learning_rate_at(recipe, step) for step in range(101)]
    assert rates[0] == rates[100] == pytest.approx(1e-4)
    assert max(rates) == rates[9] == rates[10] == pytest.approx(1e-3)
    assert all(later < earlier for earlier, later in pairwise(rates[10:]))
    constant = Recipe(max_steps=10, learning_rate=1e-3, warmup_share=0.0, lr_schedule="constant")
    assert {learning_rate_at(constant, step) for step in range(10)} == {1e-3}
