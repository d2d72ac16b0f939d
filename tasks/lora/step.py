"""One optimiser step: sums over micro-batches, divided once by the step's supervised tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import numpy.typing as npt
from mlx.utils import tree_map

from tasks.lora.batches import ANCHOR_POSITIONS, Batch
from tasks.lora.cross_entropy import Head, split_head
from tasks.lora.lessons import TermBatch
from tasks.lora.loss import additive_sums, weighted_sums
from tasks.lora.ranks import Ranks
from tasks.lora.recipe import TERMS, Recipe
from tasks.lora.terms import base_divergences, base_states, term_arrays, term_sum

SHAPES_PER_WIDTH = 8
"""Counts of supervised positions that a compiled step meets at most for each shape of a batch."""
FINAL_RATE = 0.1
"""Where the cosine ends, as a fraction of the peak."""


def learning_rate_at(recipe: Recipe, step: int) -> float:
    """Return the rate of a step, counted from 0, as a pure function: a resumed run needs no state for it."""
    warm = round(recipe.warmup_share * recipe.max_steps)
    if step < warm:
        return recipe.learning_rate * (step + 1) / warm
    if recipe.lr_schedule == "constant":
        return recipe.learning_rate
    progress = min(1.0, (step - warm) / max(1, recipe.max_steps - warm))
    return recipe.learning_rate * (FINAL_RATE + (1.0 - FINAL_RATE) * 0.5 * (1.0 + math.cos(math.pi * progress)))


def make_optimizer(recipe: Recipe) -> optim.Optimizer:
    """Make the optimiser; its rate is set before each step."""
    if recipe.optimizer == "lion":
        return optim.Lion(recipe.learning_rate, weight_decay=recipe.weight_decay)
    if recipe.optimizer == "adam":
        return optim.Adam(recipe.learning_rate, bias_correction=True)
    # Without the correction, the first steps would be about three times too long.
    return optim.AdamW(recipe.learning_rate, weight_decay=recipe.weight_decay, bias_correction=True)


def batch_arrays(batch: Batch, multiple: int = 1) -> tuple[mx.array, ...]:
    """Return what the loss needs of a batch: inputs (rows, width), and values for each supervised position, shape (n,).

    These are the place in the flattened inputs, target, 1 if it counts, weight, and penalty; they are filled up to a
    multiple with positions that do not count.
    """
    supervised = np.flatnonzero(batch.mask)
    count = max(1, -(-len(supervised) // multiple)) * multiple
    positions = np.zeros(count, np.int32)
    positions[: len(supervised)] = supervised
    counted = (np.arange(count) < len(supervised)).astype(np.float32)
    rows = positions // batch.mask.shape[1]
    return (
        mx.array(batch.tokens[:, :-1]),
        mx.array(positions),
        mx.array(batch.tokens[:, 1:].ravel()[positions]),
        mx.array(counted),
        mx.array(batch.weights[rows] * counted),
        mx.array(batch.penalties[rows] * counted),
    )


def anchor_arrays(batch: Batch, padded: bool = False) -> tuple[mx.array, mx.array]:
    """Return the places and weights of a batch's anchors; padded, as many as its rows can have, some of no weight."""
    missing = ANCHOR_POSITIONS * len(batch.tokens) - len(batch.anchors) if padded else 0
    places, weights = (np.pad(each, (0, missing)) for each in (batch.anchors, batch.anchor_weights))
    return mx.array(places.astype(np.int32)), mx.array(weights)


def batch_sums(head: Head, recipe: Recipe, arrays: tuple[mx.array, ...]) -> tuple[mx.array, ...]:
    """Run a model on a batch; return its `StepSums`, with anchors in the first, and then the anchors' divergence alone.

    `arrays` are those of `batch_arrays`, followed by those of `anchor_arrays` and the base's states there, if any.
    """
    inputs, places, targets, counted, weights, penalties, *anchors = arrays
    states = head.states(inputs)
    if recipe.objective == "additive":
        sums = additive_sums(states[places], targets, counted, penalties, recipe.lambda_weight, head)
    else:
        sums = weighted_sums(states[places], targets, counted, weights, penalties, head)
    if not anchors:
        return sums
    places, weights, base = anchors
    divergence = (weights * base_divergences(states[places], base, head)).sum()
    return sums.objective + recipe.anchor_weight * divergence, *sums[1:], mx.stop_gradient(divergence)


@dataclass(frozen=True)
class WindowMeans:
    """Means over the steps since the last report."""

    ce: float
    distrust: float
    grad_norm: float
    clipped_share: float
    steps: int
    skipped: int
    """Steps whose loss or gradient was not finite; they changed nothing and are in no mean."""
    terms: dict[str, float] = field(default_factory=dict)
    """Terms that are switched on: a pair's loss, a repetition's divergence, an ordinary token's divergence."""


class TrainingStep:
    """Accumulates gradients and updates the adapter; keeps its measurements on the device until they are read.

    Operations are fused (`compiled`) on a GPU only, if not said otherwise; on a CPU that only costs time.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: optim.Optimizer,
        recipe: Recipe,
        ranks: Ranks | None = None,
        compiled: bool | None = None,
    ) -> None:
        self._model = model
        self._optimizer = optimizer
        self._recipe = recipe
        self._ranks = ranks or Ranks()
        self._compiled = mx.default_device() == mx.Device(mx.gpu) if compiled is None else compiled
        self._head = head = split_head(model)
        gradient_of = nn.value_and_grad(model, lambda *arrays: batch_sums(head, recipe, arrays))
        # Tracing leaves its placeholders in the model, so that the model's state is an output as well.
        state = [model.state]
        self._gradient_of = mx.compile(gradient_of, state, state) if self._compiled else gradient_of
        # Lessons come in so many shapes that compiling would cost more than it saves.
        self._term_gradient_of = nn.value_and_grad(model, lambda term, *arrays: term_sum(head, term, *arrays))
        self.discard()
        self._clear_window()

    def discard(self) -> None:
        """Forget the gradients accumulated since the last update."""
        self._gradients: Any = None
        self._term_gradients: Any = None
        self._tokens = 0
        self._sums = mx.zeros(2)
        self._term_sums = mx.zeros(2 * len(TERMS))  # each term, and what each counts

    def _add_term(self, term: str, value: mx.array, count: float) -> None:
        number = TERMS.index(term)
        added = [mx.zeros(())] * (2 * len(TERMS))
        added[number], added[number + len(TERMS)] = value, mx.array(count)
        self._term_sums = self._term_sums + mx.stack(added)

    def _clear_window(self) -> None:
        self._window = mx.zeros(4)  # cross-entropy, distrust, gradient norms, clipped steps
        self._term_window = mx.zeros(2 * len(TERMS))
        self._window_tokens = 0
        self._window_steps = 0
        self._window_skipped = 0

    @property
    def window_steps(self) -> int:
        """Steps since the window was last read, skipped ones included."""
        return self._window_steps + self._window_skipped

    def accumulate(self, batch: Batch) -> None:
        """Add a micro-batch's gradient."""
        multiple = max(1, batch.mask.size // SHAPES_PER_WIDTH) if self._compiled else 1
        arrays = batch_arrays(batch, multiple)
        if len(batch.anchors):
            places, weights = anchor_arrays(batch, self._compiled)
            arrays = (*arrays, places, weights, base_states(self._model, self._head, arrays[0], places))
        sums, gradients = self._gradient_of(*arrays)
        if len(batch.anchors):
            self._add_term("anchor", sums[3], float(batch.anchor_weights.sum()))
        self._gradients = _added(self._gradients, gradients)
        self._tokens += batch.supervised_tokens
        self._sums = self._sums + mx.stack(sums[1:3])
        # Evaluated one by one: two micro-batches in flight would need twice the memory.
        mx.eval(self._gradients, self._sums, self._term_sums)

    def accumulate_term(self, batch: TermBatch) -> None:
        """Add the gradient of a step's pairs or repetitions; the step holds as many of them as the recipe says."""
        value, gradients = self._term_gradient_of(batch.term, *term_arrays(batch))
        share = self._recipe.term_weights[batch.term] / getattr(self._recipe, f"{batch.term}_rows")
        self._term_gradients = _added(self._term_gradients, tree_map(lambda gradient: gradient * share, gradients))
        self._add_term(batch.term, value, batch.count)
        mx.eval(self._term_gradients, self._term_sums)

    def mean_gradient(self) -> Any:
        """Return the accumulated gradient per supervised token, over all processes, with that of the terms."""
        self._tokens = tokens = self._ranks.count(self._tokens)
        self._sums = self._ranks.total(self._sums)
        gradients = self._gradients
        if self._recipe.term_weights:
            self._term_sums = self._ranks.total(self._term_sums)
        if self._term_gradients is not None:  # in the same message to the other processes
            gradients = tree_map(lambda own, term: own + tokens * term, gradients, self._term_gradients)
        return tree_map(lambda gradient: gradient / tokens, self._ranks.total_gradients(gradients))

    def update(self, learning_rate: float) -> bool:
        """Clip the accumulated gradient, update the adapter and start afresh.

        False if the loss or the gradient was not finite; then the adapter and the optimiser stay as they were.
        """
        gradient, norm = optim.clip_grad_norm(self.mean_gradient(), self._recipe.clip_norm)
        if not bool(mx.isfinite(norm) & mx.isfinite(self._sums).all() & mx.isfinite(self._term_sums).all()):
            self._window_skipped += 1
            self.discard()
            return False
        self._optimizer.learning_rate = learning_rate
        self._optimizer.update(self._model, gradient)
        self._window = self._window + mx.concatenate([self._sums, mx.stack([norm, norm > self._recipe.clip_norm])])
        self._term_window = self._term_window + self._term_sums
        self._window_tokens += self._tokens
        self._window_steps += 1
        self.discard()
        mx.eval(self._model.trainable_parameters(), self._optimizer.state, self._window, self._term_window)
        return True

    def read_window(self) -> WindowMeans:
        """Return the means since the last call, and start a new window; waits for the device."""
        ce, distrust, norms, clipped = (float(value) for value in np.array(self._window))
        done, skipped = self._window_steps, self._window_skipped
        tokens, steps = max(1, self._window_tokens), max(1, done)
        terms = term_means(np.array(self._term_window))
        self._clear_window()
        return WindowMeans(ce / tokens, distrust / tokens, norms / steps, clipped / steps, done, skipped, terms)


def term_means(sums: npt.NDArray[Any]) -> dict[str, float]:
    """Return the mean of each term that was measured, out of the terms' sums and what each counts."""
    values, counts = sums[: len(TERMS)].tolist(), sums[len(TERMS) :].tolist()
    return {term: value / count for term, value, count in zip(TERMS, values, counts, strict=True) if count}


def _added(total: Any, gradients: Any) -> Any:
    return gradients if total is None else tree_map(mx.add, total, gradients)
