"""Token sequences as a tree of shared beginnings, so that a model reads each beginning once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

Ids = tuple[int, ...]

MIN_SHARED = 8
"""Fewer tokens in common than this are read again by each sequence: a further forward pass would cost more."""


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


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Number of tokens with which both begin."""
    shortest = min(len(first), len(second))
    return next((place for place in range(shortest) if first[place] != second[place]), shortest)
