"""Which sequences make up which batch: a pure function of the seed and one integer, the cursor.

Sequences of like length meet in a batch, so that little is padding; which ones meet changes with every epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.lora.chunks import Tokens, TokenSequences

WIDTH_STEP = 32
"""Batches are padded to multiples of this, so that few shapes occur."""

MEGA_BATCHES = 50
"""Sequences are sorted by length within groups of at most this many batches."""

MEGA_GROUPS = 4
"""At least this many groups, if there are batches enough: within one group the same rows would meet for ever."""

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
    """Targets that are no padding."""
    supervised_tokens: int


@dataclass(frozen=True)
class WeightedSequences:
    """Sequences with the weight in the loss and the distrust term of each."""

    sequences: TokenSequences
    weights: Floats
    penalties: Floats
    draw_shares: npt.NDArray[np.float64] | None = None
    """Probability of each sequence to be drawn; none: each appears once an epoch."""

    def __len__(self) -> int:
        return len(self.sequences)


def epoch_order(seed: int, epoch: int, count: int, draw_shares: npt.NDArray[np.float64] | None = None) -> Indices:
    """Return the sequences of an epoch: a permutation, or as many draws with replacement."""
    generator = np.random.Generator(np.random.PCG64([seed, epoch]))
    if draw_shares is None:
        return generator.permutation(count)
    return generator.choice(count, size=count, p=draw_shares)


def epoch_batches(
    lengths: Indices, batch_size: int, seed: int, epoch: int, draw_shares: npt.NDArray[np.float64] | None = None
) -> list[Indices]:
    """Return the batches of an epoch as indices; only the batch with the remainder is smaller."""
    order = epoch_order(seed, epoch, len(lengths), draw_shares)
    batches: list[Indices] = []
    group = max(1, min(MEGA_BATCHES, len(order) // batch_size // MEGA_GROUPS)) * batch_size
    for start in range(0, len(order), group):
        mega = order[start : start + group]
        mega = mega[np.argsort(lengths[mega], kind="stable")]
        batches += [mega[at : at + batch_size] for at in range(0, len(mega), batch_size)]
    shuffle = np.random.Generator(np.random.PCG64([seed, epoch, 1])).permutation(len(batches))
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
    """The endless stream of training batches, readable from any cursor."""

    def __init__(self, data: WeightedSequences, batch_size: int, max_seq_length: int, seed: int) -> None:
        self._data = data
        self._batch_size = batch_size
        self._max_seq_length = max_seq_length
        self._seed = seed
        self._epoch = -1
        self._order: list[Indices] = []

    @property
    def batches_per_epoch(self) -> int:
        """Batches in one epoch, the remainder included."""
        return -(-len(self._data) // self._batch_size)

    def batch(self, cursor: int) -> Batch:
        """Return the batch at a cursor: the number of batches before it since the run began."""
        epoch, position = divmod(cursor, self.batches_per_epoch)
        if epoch != self._epoch:
            lengths = self._data.sequences.lengths
            self._order = epoch_batches(lengths, self._batch_size, self._seed, epoch, self._data.draw_shares)
            self._epoch = epoch
        return make_batch(self._data, self._order[position], self._max_seq_length)


def fixed_batches(
    data: WeightedSequences, batch_size: int, max_seq_length: int, seed: int, cap: int
) -> Iterator[tuple[Indices, Batch]]:
    """Yield the validation set in batches, always the same ones.

    Args:
        data: The validation sequences.
        batch_size: Rows per batch.
        max_seq_length: Most tokens that the model reads at once.
        seed: Chooses the sequences where the cap leaves some out.
        cap: Most batches; negative for all.
    """
    chosen = epoch_order(seed, 0, len(data))
    if cap >= 0:
        chosen = chosen[: cap * batch_size]
    chosen = chosen[np.argsort(data.sequences.lengths[chosen], kind="stable")]
    for start in range(0, len(chosen), batch_size):
        indices = chosen[start : start + batch_size]
        yield indices, make_batch(data, indices, max_seq_length)
