"""The mathematics of the terms beside the objective: pairs of answers, repeated claims, the anchor on the base."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_unflatten

from tasks.lora.adapter import Adapter, adapter_off, attach_adapter, checkpoint_activations
from tasks.lora.batches import ANCHOR_POSITIONS, Batch, make_batch, with_anchors
from tasks.lora.cross_entropy import Head, split_head
from tasks.lora.lessons import Answer, Choice, Lessons, Pair, Repetition, TermBatch, term_batches
from tasks.lora.recipe import Recipe
from tasks.lora.step import TrainingStep, make_optimizer
from tasks.lora.terms import (
    ask_base,
    base_divergences,
    candidate_margins,
)
from tests.tasks.lora.test_batches import some_sequences
from tests.tasks.lora.test_cross_entropy import Small, quantised, states_of
from tests.tasks.lora.test_step import Gradient, norm, relative_difference, same_bits, trainable
from tests.tasks.lora.tiny_model import random_model

TARGETS = mx.array([5, 6, 250, 3, 9, 11, 0])
CANDIDATES = mx.array([[5, 6], [1, 0], [250, 3], [9, 8], [2, 257], [4, 3], [7, 9]])
ALL = {"preference_weight": 0.7, "consistency_weight": 0.9, "anchor_weight": 1.3}


def recipe_of(**changes: Any) -> Recipe:
    settings: dict[str, Any] = {"lora_rank": 4, "lora_alpha": 8, "lora_layers": -1, "max_seq_length": 64}
    return Recipe.model_validate(settings | {"preference_rows": 3, "consistency_rows": 3} | changes)


def trained(recipe: Recipe, seed: int = 5) -> tuple[nn.Module, Adapter]:
    """Return a model whose adapter has moved away from the base."""
    model = random_model()
    adapter = attach_adapter(model, recipe)
    generator = np.random.default_rng(seed)
    for _, module in model.named_modules():
        if "lora_b" in module:
            module.lora_b = mx.array(generator.normal(0, 0.05, module.lora_b.shape).astype(np.float32))
        if "m" in module:
            module.m = module.m * mx.array(generator.uniform(0.9, 1.1, module.m.shape).astype(np.float32))
    return model.train(), adapter


def tokens(generator: np.random.Generator, count: int) -> np.ndarray[Any, np.dtype[np.int32]]:
    return generator.integers(2, 258, count).astype(np.int32)


def some_lessons() -> Lessons:
    generator = np.random.default_rng(8)
    pairs, repetitions = [], []
    for number in range(5):
        prompt = tokens(generator, 6 + number)
        answers = [np.concatenate([prompt, tokens(generator, count)]) for count in (4, 9 + number)]
        pairs.append(Pair(*(Answer(answer, len(prompt), len(answer) - len(prompt)) for answer in answers)))
        one, two = (int(token) for token in generator.choice(np.arange(2, 258), 2, replace=False))
        single = Choice(tokens(generator, 12 + number), (one, two))
        repetitions.append(Repetition(Choice(tokens(generator, 20 + number), (one, two)), single))
    return Lessons(tuple(pairs), tuple(repetitions))


@pytest.fixture
def batch() -> Batch:
    """Eight rows, the longest with more positions than the anchor takes; the second is a lesson."""
    data = some_sequences(count=8, longest=60)
    lessons = np.arange(8) == 1
    data = replace(data, sequences=replace(data.sequences, lessons=lessons))
    made = make_batch(data, np.arange(8), 64)
    return with_anchors(made, data, np.arange(8), 42, 7)


def small(head: Head) -> Small:
    return Small(**{field.name: getattr(head, field.name) for field in dataclasses.fields(Head)})


Position = Callable[[mx.array, Head], mx.array]


def textbook_divergences(states: mx.array, head: Head) -> mx.array:
    ours, theirs = (nn.log_softmax(head.project(each)) for each in (states, 0.5 * mx.stop_gradient(states)))
    return (mx.exp(theirs) * (theirs - ours)).sum(axis=-1)


def textbook_margins(states: mx.array, head: Head) -> mx.array:
    both = mx.take_along_axis(nn.log_softmax(head.project(states)), CANDIDATES, axis=-1)
    return both[:, 0] - both[:, 1]


@pytest.mark.parametrize(
    ("ours", "textbook"),
    [
        (lambda states, head: base_divergences(states, 0.5 * mx.stop_gradient(states), head), textbook_divergences),
        (lambda states, head: candidate_margins(states, CANDIDATES, head), textbook_margins),
    ],
)
def test_each_position_has_the_textbooks_value_and_gradient(ours: Position, textbook: Position) -> None:
    head = split_head(quantised(random_model()))
    states = 3.0 * states_of(head)
    shares = mx.array([1.0, 0.5, -27.0, 0.0, 3.0, 1.0, 2.0])
    expected, gradient = mx.value_and_grad(lambda states: (shares * textbook(states, head)).sum())(states)
    value, found = mx.value_and_grad(lambda states: (shares * ours(states, small(head))).sum())(states)
    assert float(value) == pytest.approx(float(expected), rel=1e-4, abs=1e-5)
    assert float(mx.abs(found - gradient).max()) < 5e-5 * float(mx.abs(gradient).max())


@pytest.mark.parametrize("lora_type", ["lora", "dora"])
@pytest.mark.parametrize("recomputed", [True, False])
def test_without_its_adapter_a_model_is_its_base_to_the_bit(lora_type: Any, recomputed: bool) -> None:
    inputs = mx.array([[1, 5, 6, 250, 3, 9, 11]])
    base = random_model()(inputs)
    model, _ = trained(recipe_of(lora_type=lora_type, lora_dropout=0.3))
    if recomputed:
        checkpoint_activations(model)
    moved = model.eval()(inputs)
    with adapter_off(model.train()):
        assert bool(mx.array_equal(model(inputs), base))
    assert not bool(mx.allclose(moved, base, atol=1e-3))
    assert bool(mx.array_equal(model.eval()(inputs), moved))


@pytest.mark.parametrize("terms", [{}, ALL], ids=["plain", "terms"])
def test_a_compiled_step_computes_the_same(batch: Batch, terms: dict[str, float]) -> None:
    recipe = recipe_of(**terms, lora_dropout=0.2)
    if not terms:
        batch = replace(batch, anchors=batch.anchors[:0])
    found = []
    for compiled in (False, True):
        model, adapter = trained(recipe)
        lessons = ask_base(model, some_lessons(), recipe)
        adapter.set_dropout_keys(recipe.seed, 1)
        gradient, step = step_gradient(model, recipe, batch, lessons, compiled)
        step.update(1e-3)
        found.append((gradient, step.read_window()))
    assert relative_difference(found[1][0], found[0][0]) < 1e-5
    assert found[0][1].terms.keys() == {term.removesuffix("_weight") for term in terms}
    assert found[1][1].terms == pytest.approx(found[0][1].terms, rel=1e-4)
    assert found[1][1].ce == pytest.approx(found[0][1].ce, rel=1e-5)


def step_gradient(
    model: nn.Module, recipe: Recipe, batch: Batch, lessons: Lessons, compiled: bool = False
) -> tuple[Gradient, TrainingStep]:
    step = TrainingStep(model, make_optimizer(recipe), recipe, compiled=compiled)
    step.accumulate(batch)
    for held, term in ((lessons.pairs, "preference"), (lessons.repetitions, "consistency")):
        for rows in term_batches(held[:3], recipe) if term in recipe.term_weights else ():
            step.accumulate_term(rows)
    return dict(tree_flatten(step.mean_gradient())), step


def whole_objective(model: nn.Module, recipe: Recipe, batch: Batch, lessons: Lessons) -> float:
    """The objective of a step with its terms, from whole logits in float64."""

    def log_probabilities(rows: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
        logits = np.array(model(mx.array(rows)), np.float64)
        logits -= logits.max(axis=-1, keepdims=True)
        return np.asarray(logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True)))

    def likelihood(answer: Answer) -> float:
        rows = log_probabilities(answer.tokens[None, :-1])[0, answer.start - 1 :]
        return float(rows[np.arange(len(rows)), answer.tokens[answer.start :]].sum() / answer.size_bytes)

    found = log_probabilities(batch.tokens[:, :-1])
    losses = -np.take_along_axis(found, batch.tokens[:, 1:, None], axis=-1)[..., 0] * batch.mask
    total = float((losses * batch.weights[:, None]).sum())
    with adapter_off(model):
        base = log_probabilities(batch.tokens[:, :-1])
    divergences = (np.exp(base) * (base - found)).sum(axis=-1).ravel()
    total += recipe.anchor_weight * float((divergences[batch.anchors] * batch.anchor_weights).sum())
    total /= batch.supervised_tokens
    for pair in lessons.pairs[:3]:
        difference = likelihood(pair.chosen) - likelihood(pair.rejected)
        total += recipe.preference_weight / 3 * float(np.log1p(np.exp(-20 * difference)))
    for one in lessons.repetitions[:3]:
        first, second = one.repeated.candidates
        row = log_probabilities(one.repeated.tokens[None])[0, -1]
        margin = float(row[first] - row[second])
        wanted = float(np.clip(one.base_margin, -np.log(49), np.log(49)))  # no answer counts as more than 98 % sure
        q, p = (1 / (1 + np.exp(-value)) for value in (margin, wanted))
        total += recipe.consistency_weight / 3 * (q - p) * (margin - wanted)
    return total


@pytest.mark.parametrize("objective", ["weighted", "additive"])
def test_a_steps_gradient_is_that_of_finite_differences(objective: Any, batch: Batch) -> None:
    recipe = recipe_of(**ALL, objective=objective)
    if objective == "additive":
        batch = replace(batch, weights=np.ones_like(batch.weights))
    model, _ = trained(recipe)
    lessons = ask_base(model, some_lessons(), recipe)
    sure = replace(lessons.repetitions[0], base_margin=9.0)
    lessons = replace(lessons, repetitions=(sure, *lessons.repetitions[1:]))
    gradient, _ = step_gradient(model, recipe, batch, lessons)
    generator = np.random.default_rng(2)
    start = trainable(model)
    for _ in range(3):
        # Half along the gradient: a random direction alone would hardly meet it.
        direction = {
            name: value / norm(gradient) + mx.array(generator.normal(0, 0.01, value.shape).astype(np.float32))
            for name, value in gradient.items()
        }
        slope = sum(float((gradient[name] * direction[name]).sum()) for name in gradient)
        values = []
        for side in (1e-3, -1e-3):
            moved = {name: value + side * direction[name] for name, value in start.items()}
            model.update(tree_unflatten(list(moved.items())))
            values.append(whole_objective(model, recipe, batch, lessons))
        model.update(tree_unflatten(list(start.items())))
        assert (values[0] - values[1]) / 2e-3 == pytest.approx(slope, rel=5e-3)


def test_the_anchor_takes_few_positions_of_ordinary_rows_for_all(batch: Batch) -> None:
    rows = batch.anchors // batch.mask.shape[1]
    supervised = batch.mask.sum(axis=1)
    assert supervised.max() > ANCHOR_POSITIONS and supervised[1] > 0
    for row in range(8):
        expected = 0 if row == 1 else min(ANCHOR_POSITIONS, int(supervised[row]))
        assert (rows == row).sum() == expected
        if expected:
            assert batch.anchor_weights[rows == row].sum() == pytest.approx(supervised[row])
    assert batch.mask.ravel()[batch.anchors].all() and len(set(batch.anchors.tolist())) == len(batch.anchors)


def test_padding_of_lessons_is_not_trained_and_batches_of_any_size_add_up(batch: Batch) -> None:
    recipe = recipe_of(**ALL)
    model, _ = trained(recipe)
    lessons = ask_base(model, some_lessons(), recipe)

    def refilled(rows: TermBatch) -> TermBatch:
        filled = rows.tokens.copy()
        filled[rows.tokens == 0] = 77
        return replace(rows, tokens=filled)

    def gradient(recipe: Recipe, change: Callable[[TermBatch], TermBatch] = lambda rows: rows) -> tuple[Gradient, int]:
        step = TrainingStep(model, make_optimizer(recipe), recipe, compiled=False)
        step.accumulate(batch)
        made = [*term_batches(lessons.pairs, recipe), *term_batches(lessons.repetitions, recipe)]
        for rows in made:
            step.accumulate_term(change(rows))
        return dict(tree_flatten(step.mean_gradient())), len(made)

    whole, few = gradient(recipe.model_copy(update={"batch_tokens": 640}))
    assert same_bits(gradient(recipe.model_copy(update={"batch_tokens": 640}), refilled)[0], whole)
    cut, many = gradient(recipe.model_copy(update={"batch_tokens": 64}))
    assert (few, many) == (2, 5 + 3)
    assert relative_difference(cut, whole) < 1e-5


def test_the_base_is_asked_the_single_question_whatever_the_adapter_learned() -> None:
    recipe = recipe_of()
    fresh = random_model()
    attach_adapter(fresh, recipe)
    lessons = some_lessons()
    asked = [ask_base(model, lessons, recipe) for model in (fresh, trained(recipe)[0])]
    margins = [[one.base_margin for one in lessons.repetitions] for lessons in asked]
    assert margins[0] == margins[1]
    single = lessons.repetitions[2].single
    logits = np.array(random_model()(mx.array(single.tokens[None])))[0, -1]
    expected = logits[single.candidates[0]] - logits[single.candidates[1]]
    assert asked[0].repetitions[2].base_margin == pytest.approx(expected, rel=1e-4)
