"""Cross-entropy at chosen positions, whose logits never exist all at once.

The head of a model (its last projection) is frozen, so the gradient of the summed cross-entropy with respect to the
hidden states is known in closed form: ``w * (softmax(logits) - one_hot(target)) @ W``. It is computed together with
the loss, chunk by chunk; the backward pass only scales it. Positions without a supervised target are never projected.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from tasks.lora.memory import CHUNK_ELEMENTS, MIN_CHUNK

Map = Callable[[mx.array], mx.array]


@dataclass(frozen=True)
class Head:
    """A model cut before its last projection."""

    hidden: Map
    """Tokens of shape (rows, width) to states of shape (rows, width, features)."""
    project: Map
    """States of shape (n, features) to logits of shape (n, vocabulary)."""
    pull_back: Map
    """Gradients of logits to gradients of states."""
    vocabulary: int

    @property
    def chunk(self) -> int:
        """Positions that are projected at a time."""
        return max(MIN_CHUNK, CHUNK_ELEMENTS // self.vocabulary)

    def states(self, tokens: mx.array) -> mx.array:
        """Return the hidden states of tokens one after the other, shape (n, features)."""
        states = self.hidden(tokens)
        return states.reshape(-1, states.shape[-1])


def split_head(model: nn.Module) -> Head:
    """Cut a model before its projection, where its logits are nothing but a projection; else after its logits.

    Whether they are is tried out: models that scale or squash their logits give other ones than their bare head.
    """
    probe = mx.array([[1, 2, 3]])
    was_training = model.training
    model.eval()
    logits = model(probe)
    head = _bare_head(model)
    if head is not None:
        same = head.project(head.states(probe)).reshape(logits.shape)
        if not bool(mx.allclose(same, logits, rtol=1e-3, atol=1e-3 * float(mx.abs(logits).max()))):
            head = None
    model.train(was_training)
    return head or Head(model, _unchanged, _unchanged, logits.shape[-1])


def _unchanged(values: mx.array) -> mx.array:
    return values


def _bare_head(model: nn.Module) -> Head | None:
    while "language_model" in model:
        model = model["language_model"]
    body = model.get("model")
    layer = model["lm_head"] if "lm_head" in model else body.get("embed_tokens") if body is not None else None
    if body is None or not isinstance(layer, nn.Linear | nn.Embedding | nn.QuantizedLinear | nn.QuantizedEmbedding):
        return None
    project = layer if isinstance(layer, nn.Linear | nn.QuantizedLinear) else layer.as_linear
    return Head(body, project, _transposed(layer), layer.weight.shape[0])


def _transposed(layer: Any) -> Map:
    if "scales" not in layer:
        return lambda gradient: gradient @ layer.weight

    def pull_back(gradient: mx.array) -> mx.array:
        product: mx.array = mx.quantized_matmul(
            gradient,
            layer.weight,
            layer.scales,
            layer.get("biases"),
            transpose=False,
            group_size=layer.group_size,
            bits=layer.bits,
            mode=layer.mode,
        )
        return product

    return pull_back


def token_losses(states: mx.array, targets: mx.array, head: Head) -> mx.array:
    """Return the cross-entropy of each position in nats, shape (n,), without a gradient."""
    losses: list[mx.array] = []
    for rows in chunks(states, head.chunk):
        # One after the other: chunks that wait side by side would need the memory that chunks are to save.
        part = mx.depends(states[rows], losses[-1]) if losses else states[rows]
        losses.append(nn.losses.cross_entropy(head.project(part).astype(mx.float32), targets[rows]))
    return mx.concatenate(losses)


def chunks(states: mx.array, chunk: int) -> list[slice]:
    """Cut positions into chunks."""
    return [slice(start, start + chunk) for start in range(0, states.shape[0], chunk)]


def by_chunk(
    states: mx.array, chunk: int, of: Callable[[mx.array, slice], tuple[mx.array, mx.array]]
) -> tuple[mx.array, mx.array]:
    """Return a value for each position, and its gradient with respect to the state; `of` gives both for some rows."""
    values: list[mx.array] = []
    gradients: list[mx.array] = []
    for rows in chunks(states, chunk):
        # On both: a value that waits for the end would keep its chunk's logits until then.
        part = mx.depends(states[rows], [gradients[-1], values[-1]]) if gradients else states[rows]
        value, gradient = of(part, rows)
        values.append(value)
        gradients.append(gradient)
    return mx.concatenate(values), mx.concatenate(gradients)


def losses_with_slopes(states: mx.array, targets: mx.array, head: Head) -> tuple[mx.array, mx.array]:
    """Return the cross-entropy of each position, and its gradient with respect to the logits."""
    logits = head.project(states).astype(mx.float32)
    at = targets[:, None]
    shifted = logits - logits.max(axis=-1, keepdims=True)
    # The exponential costs most of a step on a CPU; loss and gradient share one.
    powers = mx.exp(shifted)
    total = powers.sum(axis=-1, keepdims=True)
    losses = (mx.log(total) - mx.take_along_axis(shifted, at, axis=-1))[:, 0]
    softmax = powers / total
    return losses, mx.put_along_axis(softmax, at, mx.take_along_axis(softmax, at, axis=-1) - 1.0, axis=-1)


def weighted_cross_entropy(
    states: mx.array, targets: mx.array, weights: mx.array, head: Head
) -> tuple[mx.array, mx.array]:
    """Return the weighted sum of the positions' cross-entropies, and each of them in nats for the report.

    The sum has a gradient with respect to `states`; the single losses have none. States have the shape (n, features),
    all else (n,); a target is the next token.
    """

    @mx.custom_function
    def summed(states: mx.array) -> Any:
        def chunk(part: mx.array, rows: slice) -> tuple[mx.array, mx.array]:
            losses, slopes = losses_with_slopes(part, targets[rows], head)
            return losses, head.pull_back((slopes * weights[rows, None]).astype(states.dtype))

        each, gradients = by_chunk(states, head.chunk, chunk)
        return (weights * each).sum(), each, gradients

    @summed.vjp
    def _(states: mx.array, cotangents: list[mx.array], outputs: list[mx.array]) -> mx.array:
        return (cotangents[0] * outputs[2]).astype(states.dtype)

    outputs: Any = summed(states)
    return outputs[0], mx.stop_gradient(outputs[1])
