"""One optimiser step: sums over micro-batches, divided once by the step's supervised tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_map

from tasks.lora.batches import Batch
from tasks.lora.loss import StepSums, additive_sums, weighted_sums
from tasks.lora.recipe import Recipe


def make_optimizer(recipe: Recipe) -> optim.Optimizer:
    """Make the optimiser; its rate is set before each step."""
    if recipe.optimizer == "lion":
        return optim.Lion(recipe.learning_rate, weight_decay=recipe.weight_decay)
    if recipe.optimizer == "adam":
        return optim.Adam(recipe.learning_rate, bias_correction=True)
    # Without the correction, the first steps would be about three times too long.
    return optim.AdamW(recipe.learning_rate, weight_decay=recipe.weight_decay, bias_correction=True)


def batch_sums(model: nn.Module, batch: Batch, recipe: Recipe) -> StepSums:
    """Run the model on a batch and sum the recipe's objective."""
    tokens = mx.array(batch.tokens)
    logits, targets, mask = model(tokens[:, :-1]), tokens[:, 1:], mx.array(batch.mask)
    penalties = mx.array(batch.penalties)
    if recipe.objective == "additive":
        return additive_sums(logits, targets, mask, penalties, recipe.lambda_weight)
    return weighted_sums(logits, targets, mask, mx.array(batch.weights), penalties)


@dataclass(frozen=True)
class WindowMeans:
    """Means over the steps since the last report."""

    ce: float
    distrust: float
    grad_norm: float
    clipped_share: float
    finite: bool


class TrainingStep:
    """Accumulates gradients and updates the adapter; keeps its measurements on the device until they are read."""

    def __init__(self, model: nn.Module, optimizer: optim.Optimizer, recipe: Recipe) -> None:
        self._model = model
        self._optimizer = optimizer
        self._recipe = recipe
        self._gradient_of = nn.value_and_grad(model, lambda batch: tuple(batch_sums(model, batch, recipe)))
        self.discard()
        self._clear_window()

    def discard(self) -> None:
        """Forget the gradients accumulated since the last update."""
        self._gradients: Any = None
        self._tokens = 0
        self._sums = mx.zeros(2)

    def _clear_window(self) -> None:
        # cross-entropy, distrust, gradient norms, clipped steps, steps that were not finite
        self._window = mx.zeros(5)
        self._window_tokens = 0
        self._window_steps = 0

    @property
    def window_steps(self) -> int:
        """Steps since the window was last read."""
        return self._window_steps

    def accumulate(self, batch: Batch) -> None:
        """Add a micro-batch's gradient."""
        sums, gradients = self._gradient_of(batch)
        self._gradients = gradients if self._gradients is None else tree_map(mx.add, self._gradients, gradients)
        self._tokens += batch.supervised_tokens
        self._sums = self._sums + mx.stack(sums[1:])
        # Evaluated one by one: two micro-batches in flight would need twice the memory.
        mx.eval(self._gradients, self._sums)

    def mean_gradient(self) -> Any:
        """Return the accumulated gradient per supervised token."""
        return tree_map(lambda gradient: gradient / self._tokens, self._gradients)

    def update(self, learning_rate: float) -> None:
        """Clip the accumulated gradient, update the adapter and start afresh."""
        gradient, norm = optim.clip_grad_norm(self.mean_gradient(), self._recipe.clip_norm)
        self._optimizer.learning_rate = learning_rate
        self._optimizer.update(self._model, gradient)
        finite = mx.isfinite(norm) & mx.isfinite(self._sums).all()
        marks = mx.stack([norm, (norm > self._recipe.clip_norm), ~finite])
        self._window = self._window + mx.concatenate([self._sums, marks])
        self._window_tokens += self._tokens
        self._window_steps += 1
        self.discard()
        mx.eval(self._model.trainable_parameters(), self._optimizer.state, self._window)

    def read_window(self) -> WindowMeans:
        """Return the means since the last call, and start a new window; waits for the device."""
        ce, distrust, norms, clipped, broken = (float(value) for value in np.array(self._window))
        tokens, steps = max(1, self._window_tokens), max(1, self._window_steps)
        self._clear_window()
        return WindowMeans(ce / tokens, distrust / tokens, norms / steps, clipped / steps, broken == 0)
