"""Log-likelihoods of token sequences: shared beginnings are read once, sequences of like length together.

MLX is loaded inside functions only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from storage.chat_layout import common_prefix

BATCH_TOKENS = 4096
"""Most tokens, padding included, in one forward pass: bounds the logits, which are the largest array here.

A single longer sequence goes alone, whole; the evaluation's `eval_seq_length` bounds those.
"""
REMEMBERED_TOKENS = 4 * BATCH_TOKENS
"""Most tokens whose keys and values are kept for the rows of one forward pass."""
MIN_SHARED = 8
"""Fewer tokens in common than this are read again by each sequence: a further forward pass would cost more."""

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Scored:
    """A sequence of which only the tokens from `start` on are scored; `start` is at least 1."""

    ids: Ids
    start: int

    @property
    def head(self) -> Ids:
        """What is read before the first token that gives a score."""
        return self.ids[: self.start - 1]

    @property
    def tail(self) -> Ids:
        """The tokens after which the scored ones are predicted."""
        return self.ids[self.start - 1 : -1]


@dataclass
class Node:
    """Tokens to read after those of the parent; a leaf gives the scores of `rows`, which end with it."""

    tokens: Ids
    children: list[Node] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)


def grow_tree(sequences: Sequence[Scored]) -> list[Node]:
    """Return the roots of the tree; every sequence of which something is scored is a row of exactly one leaf."""
    tails: dict[Ids, dict[Ids, Node]] = {}
    for row, sequence in enumerate(sequences):
        if sequence.tail:
            leaf = tails.setdefault(sequence.head, {}).setdefault(sequence.tail, Node(sequence.tail))
            leaf.rows.append(row)
    leaves = {head: list(found.values()) for head, found in tails.items()}
    return list(_grow(sorted(leaves), leaves, 0, 0))


def _grow(heads: list[Ids], leaves: dict[Ids, list[Node]], begin: int, at: int) -> Iterator[Node]:
    """Yield the nodes of sorted heads that agree up to `at`, of which the parent has read up to `begin`."""
    for head in heads:
        if len(head) == at:  # only where too little was shared for a node, and for an empty head
            yield from [Node(head[begin:], leaves[head])] if begin < at else leaves[head]
    for _, alike in groupby((head for head in heads if len(head) > at), key=lambda head: head[at]):
        group = list(alike)
        first, end = group[0], common_prefix(group[0], group[-1])
        if len(group) == 1 or end - begin >= MIN_SHARED:
            ended = leaves[first] if len(first) == end else []
            longer = [head for head in group if len(head) > end]
            yield Node(first[begin:end], [*ended, *_grow(longer, leaves, end, end)])
        else:
            yield from _grow(group, leaves, begin, end)


def batches_of(lengths: Sequence[int], most_rows: int, most_tokens: int) -> Iterator[list[int]]:
    """Group places by like length, the shortest first: at most so many rows and, padding included, tokens."""
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lengths.__getitem__):
        length = lengths[place]
        padded = batch and length > 1.5 * lengths[batch[0]] + MIN_SHARED
        if batch and (padded or len(batch) >= most_rows or (len(batch) + 1) * length > most_tokens):
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def log_likelihoods(model: Any, sequences: Sequence[Scored], batch_size: int) -> list[list[float]]:
    """Return what an mlx-lm model gives each token from a sequence's `start` on, in nats; `batch_size` to a pass."""
    from mlx_lm.models.cache import KVCache, RotatingKVCache, make_prompt_cache

    longest = max((len(sequence.ids) for sequence in sequences), default=0)
    caches = make_prompt_cache(model)
    shared = all(
        type(cache) is KVCache or (type(cache) is RotatingKVCache and longest <= cache.max_size) for cache in caches
    )
    # Where a layer keeps something else than the keys and values of all tokens, every sequence is read whole.
    read = sequences if shared else [Scored(sequence.ids, 1) for sequence in sequences]
    reading = _Reading(model, read, batch_size, len(caches))
    reading.read(grow_tree(read), None)
    starts = [asked.start - done.start for asked, done in zip(sequences, read, strict=True)]
    return [values[start:] for values, start in zip(reading.results, starts, strict=True)]


@dataclass(frozen=True)
class _Parents:
    """The caches of a batch that was read, one for each layer, and the row of each of its children's parents."""

    caches: list[Any]
    lines: list[int]

    @property
    def length(self) -> int:
        """Tokens of each row, padding included."""
        return int(self.caches[0].size())

    def at(self, children: Sequence[int]) -> list[Any]:
        """Caches that hold a row for each of some children; these stay as they are."""
        import mlx.core as mx

        rows = mx.array([self.lines[child] for child in children])
        chosen = [copy(cache) for cache in self.caches]
        for cache in chosen:
            cache.filter(rows)
        return chosen


class _Reading:
    """Sequences to be scored by a model of so many layers, and the log-likelihoods found so far."""

    def __init__(self, model: Any, sequences: Sequence[Scored], batch_size: int, layers: int) -> None:
        self.results: list[list[float]] = [[] for _ in sequences]
        self._model = model
        self._sequences = sequences
        self._batch_size = batch_size
        self._layers = layers

    def read(self, nodes: Sequence[Node], parents: _Parents | None) -> None:
        """Read nodes in batches, and after each batch what follows it; `parents` is what was read before them.

        Padding to the right is harmless under a causal mask; the caches move it to the left, where it is masked,
        before anything follows. Only leaves need logits, so the others go in batches of their own.
        """
        import mlx.core as mx

        rows = min(self._batch_size, max(1, REMEMBERED_TOKENS // (1 + (parents.length if parents else 0))))
        for inner in (False, True):
            places = [place for place, node in enumerate(nodes) if bool(node.children) is inner]
            for batch in batches_of([len(nodes[place].tokens) for place in places], rows, BATCH_TOKENS):
                chosen = [places[place] for place in batch]
                some = [nodes[place] for place in chosen]
                width = max(len(node.tokens) for node in some)
                caches = self._caches(parents, chosen, [width - len(node.tokens) for node in some], inner=inner)
                padded = mx.array([[*node.tokens, *[0] * (width - len(node.tokens))] for node in some])
                logits = self._model(padded, cache=caches) if caches else self._model(padded)
                if not inner:
                    self._score(some, logits)
                    continue
                for cache in caches:
                    cache.finalize()
                mx.eval([(cache.keys, cache.values) for cache in caches])
                lines = [line for line, node in enumerate(some) for _ in node.children]
                self.read([child for node in some for child in node.children], _Parents(caches, lines))

    def _caches(self, parents: _Parents | None, chosen: list[int], padding: list[int], *, inner: bool) -> list[Any]:
        """Return what remembers the beginnings of a batch; nothing where it has none and none follows."""
        from mlx_lm.models.cache import BatchKVCache

        if parents is None and not inner:
            return []
        caches = parents.at(chosen) if parents else [BatchKVCache([0] * len(chosen)) for _ in range(self._layers)]
        for cache in caches:
            cache.prepare(right_padding=padding)
        return caches

    def _score(self, leaves: Sequence[Node], logits: Any) -> None:
        """Set the results of the rows that end with these leaves; logits are (leaves, length, vocabulary)."""
        import mlx.core as mx
        import mlx.nn as nn
        import numpy as np

        found = [(line, row, self._sequences[row]) for line, leaf in enumerate(leaves) for row in leaf.rows]
        lines = [line for line, _, sequence in found for _ in sequence.tail]
        positions = [position for *_, sequence in found for position in range(len(sequence.tail))]
        targets = [target for *_, sequence in found for target in sequence.ids[sequence.start :]]
        chosen = logits[mx.array(lines), mx.array(positions)].astype(mx.float32)
        scores = iter(np.array(-nn.losses.cross_entropy(chosen, mx.array(targets))).tolist())
        for _, row, sequence in found:
            self.results[row] = [next(scores) for _ in sequence.tail]
