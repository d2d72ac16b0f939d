"""Exact and near duplicates: find clusters, keep one document of each, and name the groups that must not be split.

A shared band of their MinHash signatures and an agreement of these make a candidate (`storage.shingles`). The
texts of the candidates are read once more and compared shingle by shingle: a document goes only if J to a document
that stays is at least `LEAST_SIMILARITY`, so that nothing is removed over a chain, and only if the two do not each have
a passage of their own, as leaflets with one closing page have.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from storage.shingles import BAND_ROWS, BANDS, Fingerprints, Hashes, Indices, bucket_pairs, merge_copies
from tasks.mixture.sides import keyed_hashes

RELATED_AGREEMENT = 0.5
"""Signatures that agree in this share of their places belong to texts that must not be split over both sides."""
CANDIDATE_AGREEMENT = 0.65
LEAST_SIMILARITY = 0.8
OWN_PASSAGE = 25
"""Shingles in a row that the other text lacks; a passage, and not an error of a scan."""
UNKNOWN_YEAR = 9999
"""Documents without a year count as the youngest."""

ReadShingles = Callable[[Indices], list[Hashes]]
"""Reads the shingles of documents, given by their rows, in the order of their texts."""

_COMPARE_PAIRS = 100_000


@dataclass(frozen=True)
class Duplicates:
    """Which documents stay, and which belong together.

    Attributes:
        keep: True for the one document of each cluster that stays.
        cluster_id: For every document the id of the document that stands for it (its own if it stays).
        group_id: For every document the smallest id of its group, which joins whole clusters, related texts and works.
        near: True for every document that went as a near duplicate.
        counts: documents, kept, exact_duplicates, near_duplicates, clusters (of two or more), largest_cluster.
    """

    keep: npt.NDArray[np.bool_]
    cluster_id: list[str]
    group_id: list[str]
    near: npt.NDArray[np.bool_]
    counts: dict[str, int]


def deduplicate(
    ids: Sequence[str],
    fingerprints: Fingerprints,
    authority: npt.NDArray[np.floating],
    years: npt.NDArray[np.integer],
    works: Sequence[str | None],
    read_shingles: ReadShingles,
    seed: int = 42,
) -> Duplicates:
    """Cluster duplicates and keep the lowest-authority, then oldest, member of each cluster.

    Args:
        ids: Document ids; equal ids count as duplicates.
        fingerprints: One row a document; documents without a signature are compared exactly only.
        authority: Authority weight of each document.
        years: Year of each document, `UNKNOWN_YEAR` if unknown.
        works: The parent work of each document, none if it stands alone.
        read_shingles: Reads the shingles of the candidates.
        seed: Key of the hash that breaks ties.
    """
    count = len(ids)
    rank = _ranks(ids, fingerprints, authority, years, seed)
    texts = _codes_of(fingerprints.exact)
    exact = _components(count, [_chains(texts), _chains(_codes(ids))])
    # Of equal texts one is compared, in order of rank: what is found does not depend on the order of the rows.
    in_rank = np.argsort(rank)
    compared = in_rank[np.sort(np.unique(texts[in_rank], return_index=True)[1])]
    compared = compared[fingerprints.comparable[compared]]
    first, second, agreement = near_pairs(fingerprints.signatures[compared])
    first, second = compared[first], compared[second]
    likely = agreement >= CANDIDATE_AGREEMENT
    clusters = merge_copies(exact, rank, _verified(first[likely], second[likely], read_shingles))
    in_clusters = np.lexsort((rank, clusters))
    keepers = in_clusters[np.unique(clusters[in_clusters], return_index=True)[1]]
    keep = np.zeros(count, np.bool_)
    keep[keepers] = True
    near = ~keep & (exact != exact[keepers[clusters]]) if count else keep
    groups = _components(count, [_chains(clusters), (first, second), _chains(_codes(works), skip=_absent(works))])
    sizes = np.bincount(clusters) if count else np.zeros(1, np.int64)
    texts_left = len(np.unique(exact))
    counts = {
        "documents": count,
        "kept": len(keepers),
        "exact_duplicates": count - texts_left,
        "near_duplicates": texts_left - len(keepers),
        "clusters": int((sizes > 1).sum()),
        "largest_cluster": int(sizes.max()),
    }
    return Duplicates(keep, [ids[keepers[c]] for c in clusters.tolist()], _smallest_ids(ids, groups), near, counts)


def near_pairs(signatures: npt.NDArray[np.uint32]) -> tuple[Indices, Indices, npt.NDArray[np.float64]]:
    """Find pairs of rows that share a band and agree in at least `RELATED_AGREEMENT` of their places.

    The rows are in order of rank, see `bucket_pairs`.

    Returns:
        The smaller and the larger row of each pair, and the share of places in which they agree.
    """
    rows = len(signatures)
    found = [
        bucket_pairs(signatures[:, band * BAND_ROWS : (band + 1) * BAND_ROWS], band)
        for band in range(BANDS if rows > 1 else 0)
    ]
    candidates = np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64)
    left, right = candidates // max(rows, 1), candidates % max(rows, 1)
    agreement = np.zeros(len(candidates))
    for start in range(0, len(candidates), _COMPARE_PAIRS):
        some = slice(start, start + _COMPARE_PAIRS)
        agreement[some] = (signatures[left[some]] == signatures[right[some]]).mean(axis=1)
    related = agreement >= RELATED_AGREEMENT
    return left[related], right[related], agreement[related]


def similarity(one: Hashes, other: Hashes) -> float:
    """Return the Jaccard similarity of two texts by their shingles."""
    both = len(np.intersect1d(one, other))
    return both / max(1, len(np.unique(one)) + len(np.unique(other)) - both)


def is_copy(one: Hashes, other: Hashes) -> bool:
    """Tell whether one text is a copy of the other: alike, and not each with a passage of its own."""
    if similarity(one, other) < LEAST_SIMILARITY:
        return False
    return min(_longest_run(~np.isin(one, other)), _longest_run(~np.isin(other, one))) < OWN_PASSAGE


def _longest_run(mask: npt.NDArray[np.bool_]) -> int:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.view(np.int8), [0]])))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def _verified(first: Indices, second: Indices, read_shingles: ReadShingles) -> tuple[Indices, Indices]:
    """Keep the pairs that are copies of each other."""
    rows = np.unique(np.concatenate([first, second]))
    if not len(rows):
        return first, second
    shingles = dict(zip(rows.tolist(), read_shingles(rows), strict=True))
    pairs = zip(first.tolist(), second.tolist(), strict=True)
    alike = np.fromiter((is_copy(shingles[one], shingles[other]) for one, other in pairs), np.bool_, len(first))
    return first[alike], second[alike]


def _ranks(
    ids: Sequence[str],
    fingerprints: Fingerprints,
    authority: npt.NDArray[np.floating],
    years: npt.NDArray[np.integer],
    seed: int,
) -> Indices:
    """Return each document's place in the order in which duplicates stay: low authority, old, then by chance."""
    exact = fingerprints.exact
    order = np.lexsort((exact[:, 1], exact[:, 0], keyed_hashes(str(seed), ids), years, authority))
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order))
    return ranks


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
