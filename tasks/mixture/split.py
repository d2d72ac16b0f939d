"""Assign every group to training or validation: stratified and systematic, so that no group is on both sides."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from tasks.mixture.hashing import keyed_hashes


def assign_sides(
    groups: npt.NDArray[np.int64],
    group_names: Sequence[str],
    strata: npt.NDArray[np.int64],
    val_share: Fraction,
    seed: int,
) -> npt.NDArray[np.bool_]:
    """Choose the validation groups.

    The groups are walked stratum by stratum (band, then trivium, then source), inside a stratum in the order of
    their keyed hashes; a group goes to validation if that brings its band closer to the share so far. Every band
    is thus within half a group of its share, every stratum within about one.

    Args:
        groups: The group of each row, an index into `group_names`.
        group_names: Name of each group; the only thing that its hash depends on.
        strata: (rows, 3) band, trivium and source of each row; a group belongs to the least stratum of its rows.
        val_share: Share of the rows that validation should get.
        seed: Key of the hashes.

    Returns:
        True for each row on the validation side.
    """
    count = len(group_names)
    sizes = np.bincount(groups, minlength=count)
    order = np.lexsort((strata[:, 2], strata[:, 1], strata[:, 0], groups))
    firsts = order[np.unique(groups[order], return_index=True)[1]]
    hashes = keyed_hashes(f"{seed}/side", group_names)
    walk = np.lexsort((hashes, *strata[firsts].T[::-1]))
    chosen = np.zeros(count, np.bool_)
    share, whole = val_share.numerator, val_share.denominator
    band = None
    val = seen = 0
    for group, size, here in zip(walk.tolist(), sizes[walk].tolist(), strata[firsts[walk], 0].tolist(), strict=True):
        if here != band:
            band, val, seen = here, 0, 0
        seen += size
        if 2 * (share * seen - val * whole) > size * whole:
            chosen[group] = True
            val += size
    result: npt.NDArray[np.bool_] = chosen[groups]
    return result
