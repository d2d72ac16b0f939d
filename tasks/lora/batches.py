"""Which sequences make up which batch: a pure function of the seed and one integer, the cursor.

Sequences of like length meet in a batch, so that little is padding; which ones meet changes with every epoch.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from tasks.lora.recipe import Recipe
from tasks.lora.samples import Tokens, TokenSequences

WIDTH_STEP = 32
"""Batches are padded to multiples of this, so that few shapes occur."""
MEGA_BATCHES = 50
"""Sequences are sorted by length within groups of at most this many batches."""
MEGA_GROUPS = 4
"""At least this many groups, if there are batches enough: within one group the same rows would always meet."""

ANCHOR_POSITIONS = 16
"""Positions of an ordinary row at which the anchor compares the model with its base."""
ANCHOR_STREAM = 4
"""Tells the generator of anchored positions from those of the order of batches and of lessons."""

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """Rows padded on the right to one width.

    ``tokens`` has shape (rows, width + 1), ``mask`` (rows, width): 1 where the next token is supervised.
    """

    tokens: Tokens
    mask: Floats
    weights: Floats
    penalties: Floats
    real_tokens: int
    """Targets that are not padding."""
    supervised_tokens: int
    anchors: Indices = field(default_factory=lambda: np.zeros(0, np.int64))
    """Places in the flattened mask at which the anchor holds the model to its base."""
    anchor_weights: Floats = field(default_factory=lambda: np.zeros(0, np.float32))
    """Supervised positions of its row for which each anchor stands."""

    def without_targets(self) -> Batch:
        """Return the batch with nothing to learn in it."""
        empty = replace(self, mask=np.zeros_like(self.mask), real_tokens=0, supervised_tokens=0)
        return replace(empty, anchors=self.anchors[:0], anchor_weights=self.anchor_weights[:0])


@dataclass(frozen=True)
class WeightedSequences:
    """Sequences with the weight in the loss and the distrust term of each."""

    sequences: TokenSequences
    weights: Floats
    penalties: Floats
    draw_probabilities: npt.NDArray[np.float64] | None = None
    """Probability of each sequence to be drawn; none: each appears once an epoch."""

    def is_lesson(self, index: int) -> bool:
        """Return whether a sequence belongs to a lesson about sources."""
        return self.sequences.lessons is not None and bool(self.sequences.lessons[index])

    def __len__(self) -> int:
        return len(self.sequences)


@dataclass(frozen=True)
class BatchPlan:
    """How sequences are put into batches."""

    rows: int
    max_seq_length: int
    seed: int
    tokens: int | None = None
    """Most tokens of a batch, padding included; then `rows` bounds nothing. None: `rows` sequences, whatever length."""
    anchored: bool = False
    """Whether batches carry anchors."""

    @classmethod
    def of(cls, recipe: Recipe, processes: int = 1) -> BatchPlan:
        """Make the plan of a recipe; processes that train together get batches that are larger by their number."""
        tokens = None if recipe.batch_tokens is None else recipe.batch_tokens * processes
        return cls(recipe.batch_size * processes, recipe.max_seq_length, recipe.seed, tokens, recipe.anchor_weight > 0)

    def fitting(self, longest: int) -> int:
        """Return how many rows fit whose longest has `longest` tokens."""
        if self.tokens is None:
            return self.rows
        return max(1, self.tokens // padded_width(longest - 1, self.max_seq_length))

    def usual_rows(self, lengths: Indices) -> int:
        """Return about how many rows a batch has."""
        return self.fitting(int(lengths.mean())) if len(lengths) else self.rows

    def cut(self, ascending: Indices, lengths: Indices) -> list[Indices]:
        """Cut sequences, sorted by length, into batches."""
        batches = []
        while len(ascending):
            # A row more may be longer: what fits is counted by the longest that would be in.
            count = 1
            while count < len(ascending) and count < self.fitting(int(lengths[ascending[count]])):
                count += 1
            batches.append(ascending[:count])
            ascending = ascending[count:]
        return batches


def epoch_order(
    seed: int, epoch: int, count: int, draw_probabilities: npt.NDArray[np.float64] | None = None
) -> Indices:
    """Return the sequences of an epoch: a permutation, or as many draws with replacement."""
    generator = np.random.Generator(np.random.PCG64([seed, epoch]))
    if draw_probabilities is None:
        return generator.permutation(count)
    return generator.choice(count, size=count, p=draw_probabilities)


def epoch_batches(
    lengths: Indices, plan: BatchPlan, epoch: int, draw_probabilities: npt.NDArray[np.float64] | None = None
) -> list[Indices]:
    """Return the batches of an epoch as indices; only a group's last batch is smaller than the plan allows."""
    order = epoch_order(plan.seed, epoch, len(lengths), draw_probabilities)
    batches: list[Indices] = []
    at_once = plan.usual_rows(lengths)
    group = max(1, min(MEGA_BATCHES, len(order) // at_once // MEGA_GROUPS)) * at_once
    for start in range(0, len(order), group):
        mega = order[start : start + group]
        mega = mega[np.argsort(lengths[mega], kind="stable")]
        batches += plan.cut(mega, lengths)
    shuffle = np.random.Generator(np.random.PCG64([plan.seed, epoch, 1])).permutation(len(batches))
    return [batches[index] for index in shuffle]


def padded_width(longest: int, max_seq_length: int) -> int:
    """Return the width for a longest row of `longest` inputs."""
    return min(-(-longest // WIDTH_STEP) * WIDTH_STEP, max(max_seq_length, longest))


def make_batch(data: WeightedSequences, indices: Indices, max_seq_length: int, pad_token: int = 0) -> Batch:
    """Lay sequences side by side."""
    rows = [data.sequences.sequence(int(index)) for index in indices]
    width = padded_width(max(len(row) for row in rows) - 1, max_seq_length)
    tokens = np.full((len(rows), width + 1), pad_token, np.int32)
    mask = np.zeros((len(rows), width), np.float32)
    for number, (row, index) in enumerate(zip(rows, indices, strict=True)):
        tokens[number, : len(row)] = row
        mask[number, data.sequences.first_targets[index] - 1 : len(row) - 1] = 1.0
    return Batch(
        tokens=tokens,
        mask=mask,
        weights=data.weights[indices],
        penalties=data.penalties[indices],
        real_tokens=sum(len(row) - 1 for row in rows),
        supervised_tokens=int(mask.sum()),
    )


def with_anchors(batch: Batch, data: WeightedSequences, indices: Indices, seed: int, cursor: int) -> Batch:
    """Choose the positions of a batch's ordinary rows at which the anchor holds the model to its base.

    What is chosen in a row depends on the seed, the cursor and the row's sequence, not on the rows beside it. Each
    position stands for as many as its row has of them, so that the sum is that over all in expectation.
    """
    places, weights = [batch.anchors], [batch.anchor_weights]
    for row, index in enumerate(indices.tolist()):
        if data.is_lesson(index):
            continue
        supervised = np.flatnonzero(batch.mask[row])
        chosen = supervised
        if len(supervised) > ANCHOR_POSITIONS:
            generator = np.random.Generator(np.random.PCG64([seed, cursor, index, ANCHOR_STREAM]))
            chosen = np.sort(generator.choice(supervised, ANCHOR_POSITIONS, replace=False))
        places.append(row * batch.mask.shape[1] + chosen)
        weights.append(np.full(len(chosen), len(supervised) / max(1, len(chosen)), np.float32))
    return replace(batch, anchors=np.concatenate(places), anchor_weights=np.concatenate(weights))


class BatchStream:
    """The endless stream of training batches, readable from any cursor.

    Of `ranks` processes that train together, the one of number `rank` gets its part of each batch's rows.
    """

    def __init__(self, data: WeightedSequences, plan: BatchPlan, rank: int = 0, ranks: int = 1) -> None:
        self._data = data
        self._plan = plan
        self._rank, self._ranks = rank, ranks
        self._epoch = -1
        self._order: list[Indices] = []
        self._starts = [0]
        """Cursor at which each epoch begins, as far as is known; under a token budget their lengths differ."""

    def _open(self, epoch: int) -> None:
        if epoch == self._epoch:
            return
        self._order = epoch_batches(self._data.sequences.lengths, self._plan, epoch, self._data.draw_probabilities)
        self._epoch = epoch
        if len(self._starts) == epoch + 1:
            self._starts.append(self._starts[epoch] + len(self._order))

    def position(self, cursor: int) -> tuple[int, int]:
        """Return the epoch of a cursor, and how many of its batches come before."""
        while self._starts[-1] <= cursor:
            self._open(len(self._starts) - 1)
        epoch = bisect_right(self._starts, cursor) - 1
        return epoch, cursor - self._starts[epoch]

    def batch(self, cursor: int) -> Batch:
        """Return the batch at a cursor: the number of batches before it since the run began."""
        epoch, position = self.position(cursor)
        self._open(epoch)
        rows = self._order[position]
        mine = rows[self._rank :: self._ranks]
        if len(mine):
            batch = make_batch(self._data, mine, self._plan.max_seq_length)
            anchored = self._plan.anchored
            return with_anchors(batch, self._data, mine, self._plan.seed, cursor) if anchored else batch
        # Every process must take part in every sum, even with nothing to add.
        return make_batch(self._data, rows[:1], self._plan.max_seq_length).without_targets()


def fixed_batches(data: WeightedSequences, plan: BatchPlan, cap: int) -> Iterator[tuple[Indices, Batch]]:
    """Yield the validation set in batches, always the same ones: at most `cap` of ``plan.rows``, all if negative."""
    chosen = epoch_order(plan.seed, 0, len(data))
    if cap >= 0:
        chosen = chosen[: cap * plan.rows]
    chosen = chosen[np.argsort(data.sequences.lengths[chosen], kind="stable")]
    for indices in plan.cut(chosen, data.sequences.lengths):
        batch = make_batch(data, indices, plan.max_seq_length)
        yield indices, with_anchors(batch, data, indices, plan.seed, 0) if plan.anchored else batch
