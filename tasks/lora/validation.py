"""Loss on the fixed validation set, as a whole and by authority band."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from storage.vocabulary import BANDS, band_of
from tasks.lora.batches import BatchPlan, WeightedSequences, epoch_order, fixed_batches
from tasks.lora.cross_entropy import split_head, token_losses
from tasks.lora.lessons import Lessons, term_batches
from tasks.lora.ranks import Ranks
from tasks.lora.recipe import TERMS, Recipe
from tasks.lora.step import anchor_arrays, term_means
from tasks.lora.terms import base_divergences, base_states, term_arrays, term_sum


@dataclass(frozen=True)
class Validation:
    """Mean losses per supervised token, in nats."""

    ce: float
    objective: float
    """Cross-entropy with the training weights, and the terms that are switched on: what training lowers."""
    tokens: int
    bands: dict[str, float]
    """Cross-entropy by authority band; bands without tokens are left out."""
    terms: dict[str, float] = field(default_factory=dict)
    """Terms that are switched on and have rows to validate, without their weights."""

    def fields(self) -> dict[str, float]:
        """Return the values as flat fields for a report."""
        values = {"valid_ce": self.ce, "valid_objective": self.objective}
        values |= {f"valid_ce_{band}": value for band, value in self.bands.items()}
        return values | {f"valid_{term}": value for term, value in self.terms.items()}


def validate(
    model: nn.Module,
    data: WeightedSequences,
    recipe: Recipe,
    ranks: Ranks | None = None,
    leave_if_asked: Callable[[], None] = lambda: None,
    lessons: Lessons | None = None,
) -> Validation | None:
    """Measure a model on the validation set, up to the recipe's cap; none if the cap or the set is empty.

    Processes that train together take turns with the batches; all of them call `leave_if_asked` before each round.
    """
    ranks = ranks or Ranks()
    was_training = model.training
    model.eval()
    try:
        measured = _Measured(model, recipe, ranks, leave_if_asked)
        measured.add_sequences(data)
        measured.add_lessons(lessons or Lessons())
    finally:
        model.train(was_training)
    return measured.means()


class _Measured:
    """Sums over this process's batches, and their means over all processes."""

    def __init__(self, model: nn.Module, recipe: Recipe, ranks: Ranks, leave_if_asked: Callable[[], None]) -> None:
        self._model, self._recipe, self._ranks, self._leave_if_asked = model, recipe, ranks, leave_if_asked
        self._head = split_head(model)
        self._bands = np.zeros((len(BANDS), 3))
        """Cross-entropy, weighted cross-entropy and tokens of each band."""
        self._terms = np.zeros(2 * len(TERMS))
        """Each term, and what each counts."""

    def _takes(self, number: int) -> bool:
        """Return whether a batch is this process's turn."""
        if number % self._ranks.size == 0:
            self._leave_if_asked()
        return number % self._ranks.size == self._ranks.rank

    def _add_term(self, term: str, value: mx.array, count: float) -> None:
        self._terms[TERMS.index(term)] += float(value)
        self._terms[TERMS.index(term) + len(TERMS)] += count

    def add_sequences(self, data: WeightedSequences) -> None:
        """Sum the losses of the validation set, and the anchor if it is switched on."""
        head = self._head
        for number, (indices, batch) in enumerate(
            fixed_batches(data, BatchPlan.of(self._recipe), self._recipe.val_batches)
        ):
            if not self._takes(number):
                continue
            positions = np.flatnonzero(batch.mask)
            inputs = mx.array(batch.tokens[:, :-1])
            states = head.states(inputs)
            targets = mx.array(batch.tokens[:, 1:].ravel()[positions])
            losses = np.array(token_losses(states[mx.array(positions)], targets, head), np.float64)
            rows = positions // batch.mask.shape[1]
            authority = data.sequences.auth_weights[indices]
            bands = np.array([BANDS.index(band_of(float(value))) for value in authority])[rows]
            sums = np.stack([losses, losses * batch.weights[rows], np.ones(len(losses))], axis=1)
            np.add.at(self._bands, bands, sums)
            if len(batch.anchors):
                places, weights = anchor_arrays(batch)
                base = base_states(self._model, head, inputs, places)
                divergence = (weights * base_divergences(states[places], base, head)).sum()
                self._add_term("anchor", divergence, float(batch.anchor_weights.sum()))

    def add_lessons(self, lessons: Lessons) -> None:
        """Sum the terms of the validation lessons, always the same ones."""
        recipe = self._recipe
        for _, rows, held in lessons.by_term(recipe):
            cap = len(held) if recipe.val_batches < 0 else recipe.val_batches * rows
            chosen = [held[int(index)] for index in epoch_order(recipe.seed, 0, len(held))[:cap]]
            for number, batch in enumerate(term_batches(chosen, recipe)):
                if self._takes(number):
                    self._add_term(batch.term, term_sum(self._head, batch.term, *term_arrays(batch)), batch.count)

    def means(self) -> Validation | None:
        """Return the means over all processes; none if there were no tokens."""
        sums, terms = self._bands, self._terms
        if self._ranks.size > 1:
            sums, terms = (
                np.array(self._ranks.total(mx.array(own.astype(np.float32))), np.float64) for own in (sums, terms)
            )
        ce, weighted, tokens = sums.sum(axis=0)
        if tokens == 0:
            return None
        bands: dict[str, float] = {
            band: float(row[0] / row[2]) for band, row in zip(BANDS, sums, strict=True) if row[2]
        }
        means, weights = term_means(terms), self._recipe.term_weights
        objective = float(weighted / tokens) + sum(weights[term] * mean for term, mean in means.items())
        return Validation(float(ce / tokens), objective, int(tokens), bands, means)
