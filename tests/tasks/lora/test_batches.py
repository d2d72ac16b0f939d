from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from tasks.lora.batches import (
    Batch,
    BatchPlan,
    BatchStream,
    WeightedSequences,
    epoch_batches,
    fixed_batches,
    make_batch,
)
from tasks.lora.samples import TokenSequences


def some_sequences(count: int = 103, longest: int = 200, seed: int = 0) -> WeightedSequences:
    generator = np.random.default_rng(seed)
    lengths = generator.integers(2, longest, count)
    tokens = generator.integers(2, 200, lengths.sum()).astype(np.int32)
    sequences = TokenSequences(
        tokens=tokens,
        starts=np.concatenate([[0], np.cumsum(lengths)]),
        first_targets=np.array([generator.integers(1, length) for length in lengths], np.int32),
        auth_weights=generator.uniform(0, 0.99, count).astype(np.float32),
        prov_entropies=generator.uniform(0, 10, count).astype(np.float32),
        samples=count,
    )
    weights = generator.uniform(0.1, 3, count).astype(np.float32)
    return WeightedSequences(sequences, weights, weights)


def first_epoch(stream: BatchStream) -> int:
    return next(cursor for cursor in range(10_000) if stream.position(cursor)[0] > 0)


def test_an_epoch_holds_every_sequence_once_and_epochs_differ() -> None:
    data = some_sequences()
    orders = ((7, 0), (7, 1), (8, 0))
    epochs = [epoch_batches(data.sequences.lengths, BatchPlan(4, 256, seed), epoch) for seed, epoch in orders]
    for batches in epochs:
        assert sorted(np.concatenate(batches).tolist()) == list(range(len(data)))
        assert Counter(len(batch) for batch in batches) == {4: 25, 3: 1}
    first, *others = ({frozenset(batch.tolist()) for batch in batches} for batches in epochs)
    assert all(len(first & other) < 5 for other in others), "who meets in a batch must change with epoch and seed"


def test_sorting_by_length_leaves_little_padding() -> None:
    data = some_sequences(count=800)
    stream = BatchStream(data, BatchPlan(8, 256, seed=0))
    batches = [stream.batch(cursor) for cursor in range(first_epoch(stream))]
    cells = sum(batch.mask.size for batch in batches)
    assert 1 - sum(batch.real_tokens for batch in batches) / cells < 0.2
    unsorted = [make_batch(data, np.arange(start, start + 8), 256) for start in range(0, 800, 8)]
    assert 1 - sum(batch.real_tokens for batch in unsorted) / sum(batch.mask.size for batch in unsorted) > 0.4


def test_mask_covers_the_supervised_targets_and_no_padding() -> None:
    data = some_sequences(count=5)
    batch = make_batch(data, np.arange(5), 256, pad_token=0)
    assert batch.supervised_tokens == data.sequences.supervised.sum()
    targets = batch.tokens[:, 1:]
    assert (targets[batch.mask == 1] != 0).all()
    for row in range(5):
        length, first = data.sequences.lengths[row], data.sequences.first_targets[row]
        assert np.flatnonzero(batch.mask[row]).tolist() == list(range(first - 1, length - 1))


def test_validation_batches_are_always_the_same_and_capped() -> None:
    data, plan = some_sequences(), BatchPlan(4, 256, seed=1)
    first, second = ([indices.tolist() for indices, _ in fixed_batches(data, plan, cap=3)] for _ in range(2))
    assert first == second
    assert sum(map(len, first)) == 12
    everything = [index for indices, _ in fixed_batches(data, plan, cap=-1) for index in indices]
    assert sorted(everything) == list(range(len(data)))


def test_a_token_budget_is_filled_and_never_exceeded() -> None:
    data, plan = some_sequences(count=300), BatchPlan(4, 256, seed=7, tokens=1024)
    stream = BatchStream(data, plan)
    batches = [stream.batch(cursor) for cursor in range(first_epoch(stream))]
    assert max(batch.mask.size for batch in batches) <= 1024
    assert sum(batch.supervised_tokens for batch in batches) == data.sequences.supervised.sum(), "each sequence once"
    rows = [len(batch.tokens) for batch in batches]
    assert min(rows) <= 5
    assert max(rows) >= 12, "short sequences share a batch"
    assert np.median([batch.mask.size for batch in batches]) > 0.8 * 1024
    alone = BatchStream(data, replace(plan, tokens=8))
    assert {len(alone.batch(cursor).tokens) for cursor in range(20)} == {1}, "a sequence that is too long goes alone"


@pytest.mark.parametrize("tokens", [None, 700])
def test_processes_share_the_rows_of_each_batch(tokens: int | None) -> None:
    def rows(batch: Batch) -> list[tuple[int, ...]]:
        return sorted(tuple(row[:3]) for row, mask in zip(batch.tokens.tolist(), batch.mask, strict=True) if mask.any())

    data, plan = some_sequences(count=61), BatchPlan(4, 256, seed=7, tokens=tokens)
    whole = BatchStream(data, plan)
    parts = [BatchStream(data, plan, rank, 3) for rank in range(3)]
    idle = 0
    for cursor in range(first_epoch(whole)):
        shares = [part.batch(cursor) for part in parts]
        assert sorted(row for share in shares for row in rows(share)) == rows(whole.batch(cursor))
        assert sum(share.supervised_tokens for share in shares) == whole.batch(cursor).supervised_tokens
        idle += sum(share.supervised_tokens == 0 for share in shares)
    assert idle > 0, "the last batch leaves a process without rows, which must not stop it"
