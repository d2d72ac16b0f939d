"""Loss on the fixed validation set, as a whole and by authority band."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt

from storage.vocabulary import BANDS, band_of
from tasks.lora.batches import BatchPlan, WeightedSequences, fixed_batches
from tasks.lora.cross_entropy import split_head, token_losses
from tasks.lora.ranks import Ranks
from tasks.lora.recipe import Recipe


@dataclass(frozen=True)
class Validation:
    """Mean losses per supervised token, in nats."""

    ce: float
    objective: float
    """Cross-entropy with the training weights: what the weighted objective lowers."""
    tokens: int
    bands: dict[str, float]
    """Cross-entropy by authority band; bands without tokens are left out."""

    def fields(self) -> dict[str, float]:
        """Return the values as flat fields for a report."""
        values = {"valid_ce": self.ce, "valid_objective": self.objective}
        return values | {f"valid_ce_{band}": value for band, value in self.bands.items()}


def validate(
    model: nn.Module,
    data: WeightedSequences,
    recipe: Recipe,
    ranks: Ranks | None = None,
    leave_if_asked: Callable[[], None] = lambda: None,
) -> Validation | None:
    """Measure a model on the validation set, up to the recipe's cap; none if the cap or the set is empty.

    Args:
        model: The model; it is left in the mode, training or not, in which it comes.
        data: The validation set.
        recipe: The recipe.
        ranks: The processes that train together, which take turns with the batches; this one alone if left out.
        leave_if_asked: Called by all of them before each round of batches; what it raises ends the validation.
    """
    ranks = ranks or Ranks()
    was_training = model.training
    model.eval()
    try:
        sums = _sum_bands(model, data, recipe, ranks, leave_if_asked)
    finally:
        model.train(was_training)
    if ranks.size > 1:
        sums = np.array(ranks.total(mx.array(sums.astype(np.float32))), np.float64)
    ce, weighted, tokens = sums.sum(axis=0)
    if tokens == 0:
        return None
    means: dict[str, float] = {band: float(row[0] / row[2]) for band, row in zip(BANDS, sums, strict=True) if row[2]}
    return Validation(float(ce / tokens), float(weighted / tokens), int(tokens), means)


def _sum_bands(
    model: nn.Module, data: WeightedSequences, recipe: Recipe, ranks: Ranks, leave_if_asked: Callable[[], None]
) -> npt.NDArray[np.float64]:
    """Return cross-entropy, weighted cross-entropy and tokens of each band, summed over this process's batches."""
    head = split_head(model)
    sums = np.zeros((len(BANDS), 3))
    for number, (indices, batch) in enumerate(fixed_batches(data, BatchPlan.of(recipe), recipe.val_batches)):
        if number % ranks.size == 0:
            leave_if_asked()
        if number % ranks.size != ranks.rank:
            continue
        positions = np.flatnonzero(batch.mask)
        states = head.hidden(mx.array(batch.tokens[:, :-1]))
        states = states.reshape(-1, states.shape[-1])[mx.array(positions)]
        losses = np.array(token_losses(states, mx.array(batch.tokens[:, 1:].ravel()[positions]), head), np.float64)
        rows = positions // batch.mask.shape[1]
        bands = np.array([BANDS.index(band_of(float(value))) for value in data.sequences.auth_weights[indices]])[rows]
        np.add.at(sums, bands, np.stack([losses, losses * batch.weights[rows], np.ones(len(losses))], axis=1))
    return sums
