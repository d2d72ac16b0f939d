"""Which sequences make up which batch: a pure function of the seed and one integer, the cursor.

Sequences of like length meet in a batch, so that little is padding; which ones meet changes with every epoch.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace

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

    def without_targets(self) -> Batch:
        """Return the batch with nothing to learn in it."""
        return replace(self, mask=np.zeros_like(self.mask), real_tokens=0, supervised_tokens=0)


@dataclass(frozen=True)
class WeightedSequences:
    """Sequences with the weight in the loss and the distrust term of each."""

    sequences: TokenSequences
    weights: Floats
    penalties: Floats
    draw_probabilities: npt.NDArray[np.float64] | None = None
    """Probability of each sequence to be drawn; none: each appears once an epoch."""

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

    @classmethod
    def of(cls, recipe: Recipe, processes: int = 1) -> BatchPlan:
        """Make the plan of a recipe; processes that train together get batches that are larger by their number."""
        tokens = None if recipe.batch_tokens is None else recipe.batch_tokens * processes
        return cls(recipe.batch_size * processes, recipe.max_seq_length, recipe.seed, tokens)

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


class BatchStream:
    """The endless stream of training batches, readable from any cursor.

    Args:
        data: The training sequences.
        plan: How sequences are put into batches.
        rank: This process's number among those that train together; it gets its part of each batch's rows.
        ranks: How many processes train together.
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
            return make_batch(self._data, mine, self._plan.max_seq_length)
        # Every process must take part in every sum, even with nothing to add.
        return make_batch(self._data, rows[:1], self._plan.max_seq_length).without_targets()


def fixed_batches(data: WeightedSequences, plan: BatchPlan, cap: int) -> Iterator[tuple[Indices, Batch]]:
    """Yield the validation set in batches, always the same ones.

    Args:
        data: The validation sequences.
        plan: How sequences are put into batches; its seed chooses the sequences where the cap leaves some out.
        cap: Most batches of ``plan.rows`` sequences; negative for all.
    """
    chosen = epoch_order(plan.seed, 0, len(data))
    if cap >= 0:
        chosen = chosen[: cap * plan.rows]
    chosen = chosen[np.argsort(data.sequences.lengths[chosen], kind="stable")]
    for indices in plan.cut(chosen, data.sequences.lengths):
        yield indices, make_batch(data, indices, plan.max_seq_length)
