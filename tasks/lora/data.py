"""A mixture made ready for a model: sequences with their weights, and what there is to know about them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from storage.errors import MixtureError, StoreError
from tasks.lora.batches import WeightedSequences
from tasks.lora.chunks import Encode, TokenSequences, build_sequences
from tasks.lora.loss import (
    effective_sample_share,
    empirical_distrust_loss,
    floored_distrust,
    normaliser,
    trust_weights,
)
from tasks.lora.recipe import Recipe
from tasks.lora.samples import Split, read_samples

LOW_SHARE = 0.25


@dataclass(frozen=True)
class TrainingData:
    """Both halves of a mixture, weighted alike."""

    train: WeightedSequences
    valid: WeightedSequences | None
    normaliser: float
    effective_sample_share: float
    supervised_tokens: int
    mean_penalty: float
    """Published distrust term, mean over supervised tokens."""
    counts: dict[str, int]

    def facts(self) -> dict[str, Any]:
        """Return what the run's record holds about the data."""
        return {
            "Z": self.normaliser,
            "effective_sample_share": self.effective_sample_share,
            "most_repeats": self.most_repeats,
            "tokens": self.supervised_tokens,
            "mean_empirical_distrust": self.mean_penalty,
            **self.counts,
        }

    @property
    def most_repeats(self) -> float:
        """How often the heaviest sequence is drawn in an epoch; 1 without importance sampling."""
        shares = self.train.draw_shares
        return 1.0 if shares is None else float(shares.max() * len(shares))

    def warnings(self) -> list[str]:
        """Return what a person should know before a long run."""
        told = [f"Effective sample size: {self.effective_sample_share:.0%} of {self.supervised_tokens} tokens"]
        if self.train.draw_shares is not None:
            told.append(f"A sequence is drawn up to {self.most_repeats:.1f} times an epoch; validate on unseen ones")
            return told
        if self.effective_sample_share >= LOW_SHARE:
            return told
        return [
            *told,
            f"Only {self.effective_sample_share:.0%} of the tokens carry the weighted loss (below {LOW_SHARE:.0%}): "
            "gradients will be noisy; sampling = importance draws heavy samples more often instead",
        ]


def _sequences(balanced: Path, split: Split, encode: Encode, end_token: int | None, recipe: Recipe) -> TokenSequences:
    samples = read_samples(balanced, split)
    return build_sequences(samples, encode, end_token, recipe.max_seq_length, recipe.mask_prompt)


def raw_weights(sequences: TokenSequences, recipe: Recipe) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the unnormalised weight of each sequence; ones under the additive objective."""
    if recipe.objective == "additive":
        return np.ones(len(sequences))
    scores = sequences.auth_weights, sequences.prov_entropies
    weights = np.array(trust_weights(*scores, recipe.alpha, recipe.lambda_weight, recipe.tau)).astype(np.float64)
    return weights if recipe.weight_cap is None else np.minimum(weights, recipe.weight_cap)


def _weighted(sequences: TokenSequences, recipe: Recipe, z: float) -> WeightedSequences:
    scores, raw = (sequences.auth_weights, sequences.prov_entropies), raw_weights(sequences, recipe)
    if recipe.objective == "additive":
        penalties = np.array(empirical_distrust_loss(*scores, recipe.alpha))
    elif recipe.lambda_weight == 0.0:
        penalties = np.array(floored_distrust(*scores, recipe.alpha, recipe.tau))
    else:
        # What the weight really adds, softened or not: ce + lambda * distrust stays Z times what is minimised.
        penalties = (raw - 1.0) / recipe.lambda_weight
    return WeightedSequences(sequences, (raw / z).astype(np.float32), penalties.astype(np.float32))


def _drawn(data: WeightedSequences) -> WeightedSequences:
    """Put the weights into the draw instead of the loss; both at once would square them."""
    shares = data.weights.astype(np.float64)
    return WeightedSequences(data.sequences, np.ones_like(data.weights), data.penalties, shares / shares.sum())


def load_training_data(balanced: Path, encode: Encode, end_token: int | None, recipe: Recipe) -> TrainingData:
    """Read, tokenise and weigh a mixture.

    Raises:
        StoreError: The mixture is missing.
        MixtureError: It holds nothing to train on.
        ParameterError: A score is outside its range.
    """
    train = _sequences(balanced, "train", encode, end_token, recipe)
    try:
        valid = _sequences(balanced, "valid", encode, end_token, recipe) if recipe.val_batches else None
    except (StoreError, MixtureError) as error:
        raise MixtureError(f"{error}; or set val_batches = 0 to train without validation") from error
    raw = raw_weights(train, recipe)
    z = normaliser(raw, train.supervised)
    weighted = _weighted(train, recipe, z)
    penalty = np.array(empirical_distrust_loss(train.auth_weights, train.prov_entropies, recipe.alpha))
    return TrainingData(
        train=_drawn(weighted) if recipe.sampling == "importance" else weighted,
        valid=None if valid is None else _weighted(valid, recipe, z),
        normaliser=z,
        effective_sample_share=effective_sample_share(raw, train.supervised),
        supervised_tokens=int(train.supervised.sum()),
        mean_penalty=normaliser(penalty, train.supervised),
        counts={
            "train_samples": train.samples,
            "train_sequences": len(train),
            "valid_samples": 0 if valid is None else valid.samples,
        },
    )
