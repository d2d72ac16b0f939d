"""One optimiser step: sums over micro-batches, divided once by the step's supervised tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_map

from tasks.lora.batches import Batch
from tasks.lora.cross_entropy import Head, split_head
from tasks.lora.loss import StepSums, additive_sums, weighted_sums
from tasks.lora.ranks import Ranks
from tasks.lora.recipe import Recipe

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
    """Return what the loss needs of a batch: inputs, and one value for each supervised position.

    Args:
        batch: The batch.
        multiple: Fill up the positions to a multiple of this with positions that do not count.

    Returns:
        Inputs (rows, width); then position in the flattened inputs, target, 1 if it counts, weight, and penalty, each
        of shape (n,).
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


def batch_sums(head: Head, recipe: Recipe, arrays: tuple[mx.array, ...]) -> StepSums:
    """Run a model on a batch and sum the recipe's objective; `arrays` are those of `batch_arrays`."""
    inputs, places, targets, counted, weights, penalties = arrays
    states = head.hidden(inputs)
    states = states.reshape(-1, states.shape[-1])[places]
    if recipe.objective == "additive":
        return additive_sums(states, targets, counted, penalties, recipe.lambda_weight, head)
    return weighted_sums(states, targets, counted, weights, penalties, head)


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


class TrainingStep:
    """Accumulates gradients and updates the adapter; keeps its measurements on the device until they are read.

    Args:
        model: The model with its adapter.
        optimizer: The optimiser, its state restored.
        recipe: The recipe.
        ranks: The processes that train together; this one alone if left out.
        compiled: Fuse the step's operations; on a GPU if left out. On a CPU it only costs time.
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
        head = split_head(model)
        gradient_of = nn.value_and_grad(model, lambda *arrays: tuple(batch_sums(head, recipe, arrays)))
        # Tracing leaves its placeholders in the model, so that the model's state is an output as well.
        self._gradient_of = mx.compile(gradient_of, [model.state], [model.state]) if self._compiled else gradient_of
        self.discard()
        self._clear_window()

    def discard(self) -> None:
        """Forget the gradients accumulated since the last update."""
        self._gradients: Any = None
        self._tokens = 0
        self._sums = mx.zeros(2)

    def _clear_window(self) -> None:
        self._window = mx.zeros(4)  # cross-entropy, distrust, gradient norms, clipped steps
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
        sums, gradients = self._gradient_of(*batch_arrays(batch, multiple))
        self._gradients = gradients if self._gradients is None else tree_map(mx.add, self._gradients, gradients)
        self._tokens += batch.supervised_tokens
        self._sums = self._sums + mx.stack(sums[1:])
        # Evaluated one by one: two micro-batches in flight would need twice the memory.
        mx.eval(self._gradients, self._sums)

    def mean_gradient(self) -> Any:
        """Return the accumulated gradient per supervised token, over all processes."""
        self._tokens = self._ranks.count(self._tokens)
        self._sums = self._ranks.total(self._sums)
        return tree_map(lambda gradient: gradient / self._tokens, self._ranks.total_gradients(self._gradients))

    def update(self, learning_rate: float) -> bool:
        """Clip the accumulated gradient, update the adapter and start afresh.

        Returns:
            False if the loss or the gradient was not finite; then the adapter and the optimiser stay as they were.
        """
        gradient, norm = optim.clip_grad_norm(self.mean_gradient(), self._recipe.clip_norm)
        if not bool(mx.isfinite(norm) & mx.isfinite(self._sums).all()):
            self._window_skipped += 1
            self.discard()
            return False
        self._optimizer.learning_rate = learning_rate
        self._optimizer.update(self._model, gradient)
        self._window = self._window + mx.concatenate([self._sums, mx.stack([norm, norm > self._recipe.clip_norm])])
        self._window_tokens += self._tokens
        self._window_steps += 1
        self.discard()
        mx.eval(self._model.trainable_parameters(), self._optimizer.state, self._window)
        return True

    def read_window(self) -> WindowMeans:
        """Return the means since the last call, and start a new window; waits for the device."""
        ce, distrust, norms, clipped = (float(value) for value in np.array(self._window))
        done, skipped = self._window_steps, self._window_skipped
        tokens, steps = max(1, self._window_tokens), max(1, done)
        self._clear_window()
        return WindowMeans(ce / tokens, distrust / tokens, norms / steps, clipped / steps, done, skipped)
