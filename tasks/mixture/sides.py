"""The samples that a mixture may be drawn from, and which of them are on the side of training and of validation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from xxhash import xxh3_64_intdigest

from storage.vocabulary import BANDS, Band

Indices = npt.NDArray[np.int64]

LARGEST_UNIT = (64, 0.01)
"""Samples, and share of all: a conflict that ties more together does not keep its groups on one side."""


@dataclass(frozen=True)
class Candidates:
    """Every sample that may be drawn, one entry a sample.

    Attributes:
        ids: Sample ids, all different.
        groups: Group of each sample, an index into `group_names`.
        group_names: Name of each group.
        bands: Index into `storage.schemas.BANDS`.
        trivia: Index into `storage.schemas.TRIVIA`.
        sources: Index into `source_names`, which is sorted.
        source_names: Names of the sources.
        conflicts: Number of the prompt that pieces of low and high authority both answer; -1 for none.
    """

    ids: Sequence[str]
    groups: Indices
    group_names: Sequence[str]
    bands: Indices
    trivia: Indices
    sources: Indices
    source_names: Sequence[str]
    conflicts: Indices

    def band_counts(self, rows: Indices | None = None) -> dict[Band, int]:
        """Count the samples of each band, among all or among some rows."""
        bands = self.bands if rows is None else self.bands[rows]
        return dict(zip(BANDS, np.bincount(bands, minlength=len(BANDS)).tolist(), strict=True))


def keyed_hashes(key: str, values: Iterable[str]) -> npt.NDArray[np.uint64]:
    """Hash every value under `key` to 64 bits (XXH3: nothing here has to withstand an adversary)."""
    seed = xxh3_64_intdigest(key.encode())
    return np.fromiter((xxh3_64_intdigest(value.encode(), seed) for value in values), np.uint64)


def both_voices(conflicts: Indices, bands: Indices, groups: Indices) -> npt.NDArray[np.bool_]:
    """Tell which samples answer a prompt that low and high authority answer, in documents that are not related.

    Args:
        conflicts: Number of the prompt of each sample, -1 for none.
        bands: Band of each.
        groups: Group of related documents of each.
    """
    count = int(conflicts.max(initial=-1)) + 1
    both = np.ones(count, np.bool_)
    outer = (conflicts >= 0) & (bands != BANDS.index("medium"))
    for band in (BANDS.index("low"), BANDS.index("high")):
        both &= np.bincount(conflicts[outer & (bands == band)], minlength=count) > 0
    related = np.unique(np.stack([conflicts[outer], groups[outer]]), axis=1)[0]
    both &= np.bincount(related, minlength=count) > 1
    return np.concatenate([both, [False]])[conflicts]


def assign_sides(candidates: Candidates, val_share: Fraction, seed: int) -> npt.NDArray[np.bool_]:
    """Tell which candidates are on the validation side: stratified, systematic, by whole units.

    A unit is a group, or the groups that a conflict ties together. Units are walked stratum by stratum (the least band,
    then trivium, then source of their samples), inside a stratum in the order of their groups' least keyed hash; a unit
    goes to validation if that brings the samples of its bands closer to the share so far.
    """
    units = _units(candidates)
    bands, strata = candidates.bands, (candidates.sources, candidates.trivia, candidates.bands)
    order = np.lexsort((*strata, units))
    firsts = order[np.unique(units[order], return_index=True)[1]]
    hashes = np.full(len(firsts), np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(hashes, units, keyed_hashes(f"{seed}/side", candidates.group_names)[candidates.groups])
    walk = np.lexsort((hashes, *(column[firsts] for column in strata)))
    sizes = np.bincount(units * len(BANDS) + bands, minlength=len(firsts) * len(BANDS)).reshape(-1, len(BANDS)).tolist()
    chosen = np.zeros(len(firsts), np.bool_)
    share, whole = val_share.numerator, val_share.denominator
    lacking = [0] * len(BANDS)  # share times what was seen, less what validation got, times the whole
    for unit in walk.tolist():
        wish = gain = 0
        for band, size in enumerate(sizes[unit]):
            if size:
                lacking[band] += share * size
                wish += 2 * lacking[band] * size
                gain += size * size * whole
        if wish > gain:
            chosen[unit] = True
            for band, size in enumerate(sizes[unit]):
                lacking[band] -= size * whole
    result: npt.NDArray[np.bool_] = chosen[units]
    return result


def _units(candidates: Candidates) -> Indices:
    """Number what stays on one side: groups, joined where a conflict ties a few of them together."""
    groups, tied = candidates.groups, candidates.conflicts >= 0
    count, conflicts = len(candidates.group_names), int(candidates.conflicts.max(initial=-1)) + 1
    edges = (groups[tied], candidates.conflicts[tied] + count)
    graph = coo_matrix((np.ones(len(edges[0]), np.bool_), edges), shape=(count + conflicts, count + conflicts))
    labels = connected_components(graph, directed=False)[1][:count] if count else np.zeros(0, np.int64)
    sizes = np.bincount(labels[groups], minlength=count + conflicts)
    most = max(LARGEST_UNIT[0], round(LARGEST_UNIT[1] * len(groups)))
    alone = sizes[labels] > most
    labels = np.where(alone, count + conflicts + np.arange(count), labels)
    return np.unique(labels[groups], return_inverse=True)[1].astype(np.int64)
