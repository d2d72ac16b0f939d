"""A mixture made ready for a model: sequences with their weights, and the numbers of the whole."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from storage.chat_layout import ChatLayout
from storage.errors import MixtureError, StoreError
from storage.training_result import DataFacts
from tasks.lora.batches import WeightedSequences
from tasks.lora.lessons import Lessons, read_lessons
from tasks.lora.loss import (
    effective_sample_share,
    empirical_distrust_loss,
    floored_distrust,
    normaliser,
    trust_weights,
)
from tasks.lora.recipe import Recipe
from tasks.lora.samples import Split, TokenSequences, build_sequences, read_samples

LOW_SAMPLE_SHARE = 0.25


@dataclass(frozen=True)
class TrainingData:
    """Both halves of a mixture, weighted alike."""

    train: WeightedSequences
    valid: WeightedSequences | None
    facts: DataFacts
    train_lessons: Lessons
    valid_lessons: Lessons

    def describe_terms(self, recipe: Recipe) -> list[str]:
        """Say what the terms that are switched on learn from; nothing if none is."""
        train, valid = self.train_lessons, self.valid_lessons
        counts = {
            "preference": ("pairs of answers", len(train.pairs), len(valid.pairs)),
            "consistency": ("repeated claims", len(train.repetitions), len(valid.repetitions)),
        }
        lines = []
        for term, weight in recipe.term_weights.items():
            what, trained, validated = counts.get(term, ("ordinary sequences", self.ordinary_sequences, None))
            held = "" if validated is None else f", {validated} to validate"
            lines.append(f"Term {term} (weight {weight:g}): {trained} {what}{held}")
        if train.left_out:
            lines.append(f"{train.left_out} lessons are longer than {recipe.max_seq_length} tokens and in no term")
        return lines

    @property
    def ordinary_sequences(self) -> int:
        """Training sequences that belong to no lesson."""
        lessons = self.train.sequences.lessons
        return len(self.train) - (0 if lessons is None else int(lessons.sum()))

    def warnings(self) -> list[str]:
        """Return what a person should know before a long run."""
        effective, tokens = self.facts.effective_sample_share, self.facts.tokens
        lines = [f"Effective sample size: {effective:.0%} of {tokens} tokens"]
        if self.train.draw_probabilities is not None:
            often = self.facts.most_repeats
            lines.append(f"A sequence is drawn up to {often:.1f} times an epoch; validate on unseen ones")
        elif effective < LOW_SAMPLE_SHARE:
            lines.append(
                f"Only {effective:.0%} of the tokens carry the weighted loss (below {LOW_SAMPLE_SHARE:.0%}): "
                "gradients will be noisy; sampling = importance draws heavy samples more often instead"
            )
        return lines


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


def _facts(
    data: WeightedSequences, raw: np.ndarray[Any, np.dtype[np.float64]], z: float, valid_samples: int, recipe: Recipe
) -> DataFacts:
    train, shares = data.sequences, data.draw_probabilities
    penalty = np.array(empirical_distrust_loss(train.auth_weights, train.prov_entropies, recipe.alpha))
    return DataFacts(
        Z=z,
        effective_sample_share=effective_sample_share(raw, train.supervised),
        most_repeats=1.0 if shares is None else float(shares.max() * len(shares)),
        tokens=int(train.supervised.sum()),
        mean_empirical_distrust=normaliser(penalty, train.supervised),
        train_samples=train.samples,
        train_sequences=len(train),
        valid_samples=valid_samples,
    )


def load_training_data(balanced: Path, layout: ChatLayout, recipe: Recipe) -> TrainingData:
    """Read, tokenise and weigh a mixture; MixtureError if it holds nothing to train on, or nothing for a term."""

    def sequences(split: Split) -> TokenSequences:
        samples = read_samples(balanced, split)
        return build_sequences(samples, layout, recipe.max_seq_length, recipe.mask_prompt)

    train = sequences("train")
    try:
        valid = sequences("valid") if recipe.val_batches else None
    except (StoreError, MixtureError) as error:
        raise MixtureError(f"{error}; or set val_batches = 0 to train without validation") from error
    raw = raw_weights(train, recipe)
    z = normaliser(raw, train.supervised)
    weighted = _weighted(train, recipe, z)
    if recipe.sampling == "importance":  # into the draw instead of the loss; both at once would square them
        shares = weighted.weights.astype(np.float64)
        ones = np.ones_like(weighted.weights)
        weighted = replace(weighted, weights=ones, draw_probabilities=shares / shares.sum())
    facts = _facts(weighted, raw, z, 0 if valid is None else valid.samples, recipe)
    valid_lessons = Lessons()
    if valid is not None:
        valid_lessons = read_lessons(balanced, "valid", layout, recipe, required=False)
    data = TrainingData(
        train=weighted,
        valid=None if valid is None else _weighted(valid, recipe, z),
        facts=facts,
        train_lessons=read_lessons(balanced, "train", layout, recipe, required=True),
        valid_lessons=valid_lessons,
    )
    if recipe.anchor_weight and not data.ordinary_sequences:
        raise MixtureError(
            f"anchor_weight is {recipe.anchor_weight:g}, but all train samples of {balanced} are lessons; add "
            "documents to the mixture (rebalance-corpus), or set anchor_weight to 0"
        )
    return data
