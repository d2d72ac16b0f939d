"""Terms that stand beside the weighted cross-entropy: pairs of answers, repeated claims, an anchor on the frozen base.

The head is frozen, so the gradient of a position's loss with respect to its hidden state is known in closed form, as in
`tasks.lora.cross_entropy`: logits exist for a chunk of positions at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from tasks.lora.adapter import adapter_off
from tasks.lora.cross_entropy import Head, by_chunk, losses_with_slopes, split_head
from tasks.lora.lessons import Lessons, TermBatch, choice_batch
from tasks.lora.recipe import Recipe

PAIR_SHARPNESS = 20.0
"""Slope of the pair loss in a difference of log-likelihood per byte, in nats; from a prototype on a real model."""
LEAST_BASE_PROBABILITY = 0.02
"""What the base model holds certain counts as this close to certain: the log-odds of certainty have no bound."""
BASE_ROWS = 16
"""Questions that the base model reads at once at the start of a run."""


def position_losses(states: mx.array, targets: mx.array, head: Head) -> mx.array:
    """Return the cross-entropy of each position in nats, shape (n,), with a gradient for each of them."""

    def chunk(part: mx.array, rows: slice) -> tuple[mx.array, mx.array]:
        losses, slopes = losses_with_slopes(part, targets[rows], head)
        return losses, head.pull_back(slopes.astype(part.dtype))

    return _by_position(states, head.chunk, chunk)


def base_divergences(states: mx.array, base: mx.array, head: Head) -> mx.array:
    """Return KL(base || model) of each position's next token in nats, shape (n,), with a gradient for each of them."""

    def chunk(part: mx.array, rows: slice) -> tuple[mx.array, mx.array]:
        ours = head.project(part).astype(mx.float32)
        theirs = head.project(base[rows]).astype(mx.float32)
        ours = ours - mx.logsumexp(ours, axis=-1, keepdims=True)
        theirs = theirs - mx.logsumexp(theirs, axis=-1, keepdims=True)
        wanted = mx.exp(theirs)
        gradient = head.pull_back((mx.exp(ours) - wanted).astype(part.dtype))
        return (wanted * (theirs - ours)).sum(axis=-1), gradient

    return _by_position(states, max(1, head.chunk // 2), chunk)


def candidate_margins(states: mx.array, candidates: mx.array, head: Head) -> mx.array:
    """Return the log-odds of the first of two candidates, shape (n, 2), at each position, with their gradients."""

    def chunk(part: mx.array, rows: slice) -> tuple[mx.array, mx.array]:
        logits = head.project(part)
        both = mx.take_along_axis(logits, candidates[rows], axis=-1).astype(mx.float32)
        signs = mx.broadcast_to(mx.array([[1.0, -1.0]]), both.shape).astype(part.dtype)
        gradient = mx.put_along_axis(mx.zeros(logits.shape, part.dtype), candidates[rows], signs, axis=-1)
        return both[:, 0] - both[:, 1], head.pull_back(gradient)

    return _by_position(states, head.chunk, chunk)


def _by_position(states: mx.array, size: int, of: Callable[[mx.array, slice], tuple[mx.array, mx.array]]) -> mx.array:
    """Compute a value for each position as `by_chunk`, so that it has a gradient."""

    @mx.custom_function
    def each(states: mx.array) -> Any:
        return by_chunk(states, size, of)

    @each.vjp
    def _(states: mx.array, cotangents: list[mx.array], outputs: list[mx.array]) -> mx.array:
        return (cotangents[0][:, None] * outputs[1]).astype(states.dtype)

    outputs: Any = each(states)
    values: mx.array = outputs[0]
    return values


def base_states(model: nn.Module, head: Head, inputs: mx.array, places: mx.array) -> mx.array:
    """Return the frozen base's states at places in the flattened rows, at once, so that its activations are freed."""
    with adapter_off(model):
        states = mx.stop_gradient(head.states(inputs)[places])
    mx.eval(states)
    return states


def pair_losses(states: mx.array, targets: mx.array, per_byte: mx.array, head: Head) -> mx.array:
    """Return ``softplus(-20 d)`` of each pair, d being its difference in log-likelihood per byte.

    `per_byte` is what each position's loss adds to the difference of each pair, shape (pairs, n).
    """
    difference = (per_byte * position_losses(states, targets, head)).sum(axis=1)
    return mx.logaddexp(mx.zeros_like(difference), -PAIR_SHARPNESS * difference)


def choice_divergences(states: mx.array, candidates: mx.array, base_margins: mx.array, head: Head) -> mx.array:
    """Return the symmetric KL between two choices among two answers: the model's, and the base model's, in nats.

    `base_margins` are the log-odds that the base model sees in the question without repetition, shape (n,).
    """
    bound = float(np.log(1.0 / LEAST_BASE_PROBABILITY - 1.0))
    wanted = mx.clip(base_margins, -bound, bound)
    found = candidate_margins(states, candidates, head)
    # KL(p || q) + KL(q || p) of two Bernoulli distributions
    return (mx.sigmoid(found) - mx.sigmoid(wanted)) * (found - wanted)


def term_sum(head: Head, term: str, inputs: mx.array, places: mx.array, *arrays: mx.array) -> mx.array:
    """Run a model on the rows of a `TermBatch` and sum its term over pairs or repetitions."""
    losses, (first, second) = pair_losses if term == "preference" else choice_divergences, arrays
    return losses(head.states(inputs)[places], first, second, head).sum()


def term_arrays(batch: TermBatch) -> tuple[mx.array, ...]:
    """Return what `term_sum` needs of a batch."""
    return mx.array(batch.tokens), *(mx.array(array) for array in batch.arrays)


def ask_base(model: nn.Module, lessons: Lessons, recipe: Recipe) -> Lessons:
    """Ask the frozen base each question with one copy of its claim; always in the same batches, so to the same bits."""
    if not lessons.repetitions:
        return lessons
    head = split_head(model)
    asked = lessons.repetitions
    order = sorted(range(len(asked)), key=lambda number: len(asked[number].single.tokens))
    margins: dict[int, float] = {}
    for start in range(0, len(order), BASE_ROWS):
        numbers = order[start : start + BASE_ROWS]
        choices = [asked[number].single for number in numbers]
        batch = choice_batch(choices, [0.0] * len(choices), recipe.max_seq_length)
        inputs, places, candidates, _ = term_arrays(batch)
        found = candidate_margins(base_states(model, head, inputs, places), candidates, head)
        margins |= dict(zip(numbers, np.array(found).tolist(), strict=True))
    return replace(
        lessons, repetitions=tuple(replace(one, base_margin=margins[number]) for number, one in enumerate(asked))
    )
