"""Loss on the fixed validation set, as a whole and by authority band."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from storage.schemas import BANDS, band_of
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
    model: nn.Module, data: WeightedSequences, recipe: Recipe, ranks: Ranks | None = None
) -> Validation | None:
    """Measure a model on the validation set, up to the recipe's cap; none if the cap or the set is empty.

    Processes that train together take turns with its batches.
    """
    ranks = ranks or Ranks(None, 0, 1)
    head = split_head(model)
    # Cross-entropy, weighted cross-entropy and tokens of each band.
    sums = np.zeros((len(BANDS), 3))
    was_training = model.training
    model.eval()
    for number, (indices, batch) in enumerate(fixed_batches(data, BatchPlan.of(recipe), recipe.val_batches)):
        if number % ranks.size != ranks.rank:
            continue
        positions = np.flatnonzero(batch.mask)
        states = head.hidden(mx.array(batch.tokens[:, :-1]))
        states = states.reshape(-1, states.shape[-1])[mx.array(positions)]
        losses = np.array(token_losses(states, mx.array(batch.tokens[:, 1:].ravel()[positions]), head), np.float64)
        rows = positions // batch.mask.shape[1]
        bands = np.array([BANDS.index(band_of(float(value))) for value in data.sequences.auth_weights[indices]])[rows]
        np.add.at(sums, bands, np.stack([losses, losses * batch.weights[rows], np.ones(len(losses))], axis=1))
    model.train(was_training)
    if ranks.size > 1:
        sums = np.array(ranks.total(mx.array(sums.astype(np.float32))), np.float64)
    ce, weighted, tokens = sums.sum(axis=0)
    if tokens == 0:
        return None
    means: dict[str, float] = {band: float(row[0] / row[2]) for band, row in zip(BANDS, sums, strict=True) if row[2]}
    return Validation(float(ce / tokens), float(weighted / tokens), int(tokens), means)
