"""Exact and near duplicates: find clusters, keep one document of each, and name the groups that must not be split.

MinHash signatures of 5-word shingles are banded 25 x 5: two documents of Jaccard similarity J share a band with
probability 1 - (1 - J^5)^25 (J = 0.65: 0.95; J = 0.8: 0.9999). A shared band is only a candidate; the signatures
must then agree in at least half of their places. Heavily garbled OCR copies (3 % of characters wrong, J about
0.45) stay below that and are not found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from tasks.mixture.hashing import keyed_hashes
from tasks.mixture.shingles import Fingerprints

BANDS = 25
BAND_ROWS = 5
AGREEMENT = 0.5
UNKNOWN_YEAR = 9999
"""Documents without a year count as the youngest."""

Indices = npt.NDArray[np.int64]

_FNV = np.uint64(0x100000001B3)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_COMPARE_PAIRS = 100_000


@dataclass(frozen=True)
class Duplicates:
    """Which documents stay, and which belong together.

    Attributes:
        keep: True for the one document of each cluster that stays.
        cluster_id: For every document the id of the document that stands for it (its own if it stays).
        group_id: For every document the smallest id of its group; a group joins whole clusters and whole works.
        counts: documents, kept, exact_duplicates, near_duplicates, clusters (of two or more), largest_cluster.
    """

    keep: npt.NDArray[np.bool_]
    cluster_id: list[str]
    group_id: list[str]
    counts: dict[str, int]


def deduplicate(
    ids: Sequence[str],
    fingerprints: Fingerprints,
    authority: npt.NDArray[np.floating],
    years: npt.NDArray[np.integer],
    works: Sequence[str | None],
    seed: int = 42,
) -> Duplicates:
    """Cluster duplicates and keep the lowest-authority, then oldest, member of each cluster.

    Args:
        ids: Document ids; equal ids count as duplicates.
        fingerprints: One row a document; documents without a signature are compared exactly only.
        authority: Authority weight of each document.
        years: Year of each document, `UNKNOWN_YEAR` if unknown.
        works: The parent work of each document, none if it stands alone.
        seed: Key of the hash that breaks ties.
    """
    count = len(ids)
    texts = _codes_of(fingerprints.exact)
    exact = _components(count, [_chains(texts), _chains(_codes(ids))])
    first_of_exact = np.unique(exact, return_index=True)[1]
    compared = np.unique(texts, return_index=True)[1]  # in order of the texts' hashes, whatever that of the rows is
    compared = compared[fingerprints.comparable[compared]]
    left, right = near_duplicate_pairs(fingerprints.signatures[compared])
    clusters = _components(count, [_chains(exact), (compared[left], compared[right])])
    keepers = _keepers(ids, fingerprints, clusters, authority, years, seed)
    keep = np.zeros(count, np.bool_)
    keep[keepers] = True
    groups = _components(count, [_chains(clusters), _chains(_codes(works), skip=_absent(works))])
    sizes = np.bincount(clusters) if count else np.zeros(1, np.int64)
    counts = {
        "documents": count,
        "kept": len(keepers),
        "exact_duplicates": count - len(first_of_exact),
        "near_duplicates": len(first_of_exact) - len(keepers),
        "clusters": int((sizes > 1).sum()),
        "largest_cluster": int(sizes.max()),
    }
    return Duplicates(keep, [ids[keepers[c]] for c in clusters.tolist()], _smallest_ids(ids, groups), counts)


def near_duplicate_pairs(signatures: npt.NDArray[np.uint32]) -> tuple[Indices, Indices]:
    """Find pairs of rows that share a band and agree in at least `AGREEMENT` of their places.

    Inside a bucket each row is compared with its predecessor and with the bucket's first row, not with all others:
    copies of one text, which all agree, are connected that way. Agreement is not transitive, so another pair of a
    mixed bucket may be passed over; which one depends on the order of the rows alone.
    """
    rows = len(signatures)
    found = []
    for band in range(BANDS if rows > 1 else 0):
        key = np.full(rows, band + 1, np.uint64)
        for column in range(band * BAND_ROWS, (band + 1) * BAND_ROWS):
            key = (key * _FNV ^ signatures[:, column]) * _GOLDEN
        order = np.argsort(key, kind="stable")
        in_order = key[order]
        fresh = np.concatenate([[True], in_order[1:] != in_order[:-1]])
        heads = np.maximum.accumulate(np.where(fresh, np.arange(rows), 0))
        members = np.flatnonzero(~fresh)
        for others in (members - 1, heads[members]):
            pairs = np.stack([order[members], order[others]])
            found.append(pairs.min(axis=0) * np.int64(rows) + pairs.max(axis=0))
    candidates = np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64)
    left, right = candidates // max(rows, 1), candidates % max(rows, 1)
    agree = np.zeros(len(candidates), np.bool_)
    for start in range(0, len(candidates), _COMPARE_PAIRS):
        some = slice(start, start + _COMPARE_PAIRS)
        agree[some] = (signatures[left[some]] == signatures[right[some]]).mean(axis=1) >= AGREEMENT
    return left[agree], right[agree]


def _keepers(
    ids: Sequence[str],
    fingerprints: Fingerprints,
    clusters: Indices,
    authority: npt.NDArray[np.floating],
    years: npt.NDArray[np.integer],
    seed: int,
) -> Indices:
    """Return the row that stays, by cluster number."""
    contested = np.flatnonzero(np.bincount(clusters, minlength=1)[clusters] > 1)
    ties = np.zeros(len(ids), np.uint64)
    ties[contested] = keyed_hashes(str(seed), (ids[i] for i in contested.tolist()))
    order = np.lexsort((fingerprints.exact[:, 1], fingerprints.exact[:, 0], ties, years, authority, clusters))
    firsts = np.unique(clusters[order], return_index=True)[1]
    result: Indices = order[firsts]
    return result


def _codes(values: Sequence[str | None]) -> Indices:
    """Number equal values alike."""
    numbers: dict[str | None, int] = {}
    return np.fromiter((numbers.setdefault(value, len(numbers)) for value in values), np.int64, len(values))


def _codes_of(rows: npt.NDArray[np.uint64]) -> Indices:
    """Number equal rows of a two-column array alike."""
    order = np.lexsort((rows[:, 1], rows[:, 0]))
    fresh = np.ones(len(rows), np.bool_)
    fresh[1:] = (rows[order][1:] != rows[order][:-1]).any(axis=1)
    codes = np.zeros(len(rows), np.int64)
    codes[order] = np.cumsum(fresh) - 1
    return codes


def _absent(values: Sequence[str | None]) -> npt.NDArray[np.bool_]:
    return np.fromiter((value is None for value in values), np.bool_, len(values))


def _chains(codes: Indices, skip: npt.NDArray[np.bool_] | None = None) -> tuple[Indices, Indices]:
    """Return the edges that link all rows of equal code into a chain."""
    order = np.argsort(codes, kind="stable")
    linked = codes[order][1:] == codes[order][:-1]
    if skip is not None:
        linked &= ~skip[order][1:]
    return order[:-1][linked], order[1:][linked]


def _components(count: int, edges: list[tuple[Indices, Indices]]) -> Indices:
    """Number the connected components of `count` rows."""
    left = np.concatenate([pair[0] for pair in edges])
    right = np.concatenate([pair[1] for pair in edges])
    graph = coo_matrix((np.ones(len(left), np.bool_), (left, right)), shape=(count, count))
    labels = connected_components(graph, directed=False)[1] if count else np.zeros(0)
    result: Indices = labels.astype(np.int64)
    return result


def _smallest_ids(ids: Sequence[str], groups: Indices) -> list[str]:
    smallest: dict[int, str] = {}
    for name, group in zip(ids, groups.tolist(), strict=True):
        smallest[group] = min(smallest.get(group, name), name)
    return [smallest[group] for group in groups.tolist()]
