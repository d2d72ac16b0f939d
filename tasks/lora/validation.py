"""Loss on the fixed validation set, as a whole and by authority band."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from storage.schemas import BANDS, band_of
from tasks.lora.batches import WeightedSequences, fixed_batches
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


def validate(model: nn.Module, data: WeightedSequences, recipe: Recipe) -> Validation | None:
    """Measure a model on the validation set, up to the recipe's cap; none if the cap or the set is empty."""
    sums: dict[str, float] = {band: 0.0 for band in BANDS}
    tokens: dict[str, int] = {band: 0 for band in BANDS}
    weighted = 0.0
    was_training = model.training
    model.eval()
    fixed = fixed_batches(data, recipe.batch_size, recipe.max_seq_length, recipe.seed, recipe.val_batches)
    for indices, batch in fixed:
        inputs = mx.array(batch.tokens)
        logits = model(inputs[:, :-1]).astype(mx.float32)
        losses = nn.losses.cross_entropy(logits, inputs[:, 1:])
        rows = np.array((losses * mx.array(batch.mask)).sum(axis=-1)).astype(np.float64)
        weighted += float((rows * batch.weights).sum())
        authorities = data.sequences.auth_weights[indices]
        for row, count, authority in zip(rows, batch.mask.sum(axis=-1), authorities, strict=True):
            band = band_of(float(authority))
            sums[band] += float(row)
            tokens[band] += int(count)
    model.train(was_training)
    total = sum(tokens.values())
    if total == 0:
        return None
    bands: dict[str, float] = {band: sums[band] / tokens[band] for band in BANDS if tokens[band]}
    return Validation(sum(sums.values()) / total, weighted / total, total, bands)
