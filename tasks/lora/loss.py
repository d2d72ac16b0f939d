"""The distrust term, the weights made from it, and the sums that a training step minimises.

The published term is ``L = alpha * (ln(1 - a + 1e-8) + H)^2`` with the authority weight ``a`` in [0, 0.99] and the
provenance entropy ``H`` in bits. It adds a logarithm in nats to an entropy in bits; it is kept as published.
``docs/decisions/0002-weighted-objective.md`` says why the default objective multiplies with it.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import mlx.core as mx
import numpy as np

from storage.errors import ParameterError
from tasks.lora.cross_entropy import Head, weighted_cross_entropy

EPSILON = 1e-8
ALPHA_BOUNDS = (2.3, 3.0)
AUTHORITY_BOUNDS = (0.0, 0.99)
FLOOR = 1.302585
"""|ln(1 - 0.90) + 1.0|: the term's base at the published coordinated point (authority 0.90, 1 bit)."""

_ROUNDING = 1e-6  # 0.99 as float32 is a little more than 0.99


def _checked(values: Any, name: str, low: float, high: float | None) -> mx.array:
    array = mx.array(values, dtype=mx.float32)
    numbers = np.array(array)
    allowed = np.isfinite(numbers) & (numbers >= low)
    bound = f"at least {low:g}"
    if high is not None:
        allowed &= numbers <= high + _ROUNDING
        bound = f"between {low:g} and {high:g}"
    if not allowed.all():
        worst = float(numbers[~allowed].flat[0])
        raise ParameterError(f"{name} {worst:g} is outside its range: it must be {bound}; correct the scores")
    return array


def _checked_inputs(authority: Any, entropy: Any, alpha: float) -> tuple[mx.array, mx.array]:
    low, high = ALPHA_BOUNDS
    if not low <= alpha <= high:
        raise ParameterError(f"alpha {alpha:g} is outside its range: choose a value between {low:g} and {high:g}")
    a = _checked(authority, "authority weight", *AUTHORITY_BOUNDS)
    h = _checked(entropy, "provenance entropy", 0.0, None)
    if a.ndim and h.ndim and a.shape != h.shape:
        raise ParameterError(f"{a.shape} authority weights do not pair with {h.shape} entropies; give one of each")
    return a, h


def _base(a: mx.array, h: mx.array) -> mx.array:
    return mx.log(1.0 - a + EPSILON) + h


def empirical_distrust_loss(authority_weight: Any, provenance_entropy: Any, alpha: float = 2.7) -> mx.array:
    """Return the published distrust term of numbers or arrays of one shape, element by element.

    Authority lies in [0, 0.99], entropy in bits is at least 0, alpha in [2.3, 3.0]; ValueError for other values.
    """
    a, h = _checked_inputs(authority_weight, provenance_entropy, alpha)
    return alpha * mx.square(_base(a, h))


def batch_empirical_distrust_loss(
    auth_weights: Any,
    prov_entropies: Any,
    alpha: float = 2.7,
    reduction: Literal["mean", "sum", "none"] = "mean",
) -> mx.array:
    """Return the published distrust term of a batch: its mean, its sum, or with ``none`` one value a sample.

    Authorities and entropies have the shape (n,) and the ranges of `empirical_distrust_loss`.
    """
    losses = empirical_distrust_loss(auth_weights, prov_entropies, alpha)
    if reduction == "mean":
        return mx.mean(losses)
    if reduction == "sum":
        return mx.sum(losses)
    if reduction == "none":
        return losses
    raise ParameterError(f"reduction {reduction!r} is unknown; choose mean, sum or none")


def floored_distrust(auth_weights: Any, prov_entropies: Any, alpha: float = 2.7, tau: float = 1.0) -> mx.array:
    """Return ``alpha * max(d, FLOOR)^(2 tau)``: the published term made monotone, and milder for tau below 1.

    The bare square rises again where ``d`` is negative, so that (0.99, 0 bits) would weigh 57; the floor keeps both
    published points as they are and never lets the value rise with authority or fall with entropy.
    """
    a, h = _checked_inputs(auth_weights, prov_entropies, alpha)
    floored = mx.maximum(_base(a, h), FLOOR)
    return alpha * (mx.square(floored) if tau == 1.0 else floored ** (2.0 * tau))


def trust_weights(
    auth_weights: Any, prov_entropies: Any, alpha: float = 2.7, lambda_weight: float = 1.0, tau: float = 1.0
) -> mx.array:
    """Return the unnormalised weight ``u = 1 + lambda * floored_distrust`` of each sample."""
    if not (0.0 <= lambda_weight < float("inf")):
        raise ParameterError(
            f"lambda_weight {lambda_weight:g} is outside its range: choose a finite value of at least 0"
        )
    return 1.0 + lambda_weight * floored_distrust(auth_weights, prov_entropies, alpha, tau)


def normaliser(weights: Any, n_tokens: Any) -> float:
    """Return ``Z``: the mean weight over all supervised tokens of the training set.

    Computed once for a data set; a mean over each batch would cancel the weights (exactly, for batches of one).
    """
    u, n = np.asarray(weights, np.float64), np.asarray(n_tokens, np.float64)
    return float((u * n).sum() / n.sum())


def effective_sample_share(weights: Any, n_tokens: Any) -> float:
    """Return the fraction of tokens that would carry as much information if all weighed the same (1: all do)."""
    w, n = np.asarray(weights, np.float64), np.asarray(n_tokens, np.float64)
    return float((n * w).sum() ** 2 / ((n * w * w).sum() * n.sum()))


class StepSums(NamedTuple):
    """Sums over a batch; the step divides them once by its count of supervised tokens."""

    objective: mx.array
    cross_entropy: mx.array
    distrust: mx.array


def weighted_sums(
    states: mx.array, targets: mx.array, counted: mx.array, weights: mx.array, penalties: mx.array, head: Head
) -> StepSums:
    """Sum the weighted objective over supervised positions: states of shape (n, features), all else (n,).

    Targets are next tokens; `counted` is 0 where a position only fills up the shape; weights are ``u / Z`` of the
    position's sequence, penalties its ``floored_distrust``, for the report.
    """
    objective, losses = weighted_cross_entropy(states, targets, weights, head)
    return StepSums(objective, (counted * losses).sum(), (penalties * losses).sum())


def additive_sums(
    states: mx.array, targets: mx.array, counted: mx.array, penalties: mx.array, lambda_weight: float, head: Head
) -> StepSums:
    """Sum the published objective, ``CE + lambda * L``, over supervised positions; arguments as `weighted_sums`.

    No term of ``L`` depends on the model, so the gradient is that of cross-entropy alone.
    """
    cross_entropy, losses = weighted_cross_entropy(states, targets, counted, head)
    distrust = (penalties * counted).sum()
    return StepSums(cross_entropy + lambda_weight * distrust, (counted * losses).sum(), distrust)
