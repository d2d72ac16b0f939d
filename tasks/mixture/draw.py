"""Draw a mixture: from candidate samples to the rows of both sides, in their final order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from storage.errors import MixtureError
from storage.schemas import BANDS, TRIVIA, Band
from tasks.mixture.allocate import TRIVIUM_LIMITS, Allocation, Cells, allocate_cells, largest_remainder
from tasks.mixture.bands import Limits, band_limits, fits, largest_side, limits_in_rows, target_rows
from tasks.mixture.hashing import keyed_hash
from tasks.mixture.parameters import MixtureParameters
from tasks.mixture.sample import MixturePlan, plan_mixture
from tasks.mixture.split import assign_sides

Indices = npt.NDArray[np.int64]
SIDES = ("train", "valid")


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
    """

    ids: Sequence[str]
    groups: Indices
    group_names: Sequence[str]
    bands: Indices
    trivia: Indices
    sources: Indices
    source_names: Sequence[str]

    def band_counts(self) -> dict[Band, int]:
        """Count the samples of each band."""
        return dict(zip(BANDS, np.bincount(self.bands, minlength=len(BANDS)).tolist(), strict=True))


@dataclass(frozen=True)
class Drawn:
    """A drawn mixture.

    Attributes:
        train: Candidates to train on, in order.
        valid: Held-out candidates, in order.
        plan: The plan, with the sizes that were really drawn.
        remarks: What a person should know: trivium categories outside their limits, sizes shrunk by groups.
    """

    train: Indices
    valid: Indices
    plan: MixturePlan
    remarks: list[str]


def draw_mixture(candidates: Candidates, parameters: MixtureParameters) -> Drawn:
    """Draw a mixture whose every side keeps the bands and whose groups never straddle.

    Depends on the samples themselves, the parameters and the seed only, not on the order of the input.

    Raises:
        MixtureError: The samples do not hold the mixture asked for.
    """
    p = parameters
    plan = plan_mixture(candidates.band_counts(), p.train_size, p.val_size, p.min_low_authority, p.scale)
    strata = np.stack([candidates.bands, candidates.trivia, candidates.sources], axis=1)
    on_valid = assign_sides(candidates.groups, candidates.group_names, strata, plan.val_share, p.seed)
    rows = (np.flatnonzero(~on_valid), np.flatnonzero(on_valid))
    cells = [_cells(candidates, side) for side in rows]
    plan, remarks = _settle_sizes(plan, cells, p)
    hashes = _hashes(f"{p.seed}/row", candidates.ids)
    chosen = []
    for name, side, available, size in zip(SIDES, rows, cells, (plan.train_size, plan.val_size), strict=True):
        allocation = allocate_cells(available, size, plan.limits)
        remarks += _trivium_remarks(name, allocation, size)
        picked = _pick(candidates, side, allocation.cells, hashes)
        order = np.argsort(_hashes(f"{p.seed}/{name}", [candidates.ids[i] for i in picked.tolist()]), kind="stable")
        chosen.append(picked[order])
    drawn = Drawn(chosen[0], chosen[1], plan, remarks)
    check_drawn(candidates, drawn)
    return drawn


def check_drawn(candidates: Candidates, drawn: Drawn) -> None:
    """Check every promise of a mixture once more before it is written.

    Raises:
        AssertionError: A promise is broken, which is a defect of this program.
    """
    plan = drawn.plan
    for side, size in ((drawn.train, plan.train_size), (drawn.valid, plan.val_size)):
        if len(side) != size or len({candidates.ids[i] for i in side.tolist()}) != size:
            raise AssertionError(f"a side of {size} samples came out with {len(side)}, or with one twice")
        sums = np.bincount(candidates.bands[side], minlength=len(BANDS)).tolist()
        for (low, high), rows in zip(limits_in_rows(plan.limits, size).values(), sums, strict=True):
            if not low <= rows <= high:
                raise AssertionError(f"a band came out with {rows} of {size} samples, outside {low} to {high}")
    if np.intersect1d(candidates.groups[drawn.train], candidates.groups[drawn.valid]).size:
        raise AssertionError("a group came out on both sides")


def _cells(candidates: Candidates, rows: Indices) -> Cells:
    """Count rows by band and trivium."""
    flat = candidates.bands[rows] * len(TRIVIA) + candidates.trivia[rows]
    return np.bincount(flat, minlength=len(BANDS) * len(TRIVIA)).reshape(len(BANDS), len(TRIVIA)).astype(np.int64)


def _settle_sizes(plan: MixturePlan, cells: list[Cells], p: MixtureParameters) -> tuple[MixturePlan, list[str]]:
    """Fit the planned sizes to what the whole groups of each side hold.

    Raises:
        MixtureError: Sizes were asked for exactly and the groups do not allow them.
    """
    counts = [_band_counts(side) for side in cells]
    sizes = (plan.train_size, plan.val_size)
    for limits in (plan.limits, band_limits(p.min_low_authority)):
        if all(fits(have, [size], limits) for have, size in zip(counts, sizes, strict=True)):
            return _replanned(plan, sizes, limits, counts), []
    limits = band_limits(p.min_low_authority)
    # Each side shrinks by itself, so the ratio moves by a few samples; holding it would cost the larger side more.
    train, val = (largest_side(have, limits, size) for have, size in zip(counts, sizes, strict=True))
    possible = (train, val)
    if not all(possible):
        raise MixtureError(
            f"the groups of related documents are too few or too large to give both sides every band: {counts[0]} "
            f"samples fall to training, {counts[1]} to validation; download more documents or lower max_pieces "
            f"(now {p.max_pieces})"
        )
    free = (p.train_size is None and p.val_size is None) or p.scale
    if not free:
        raise MixtureError(
            f"train_size={sizes[0]} and val_size={sizes[1]} fit the bands, but not while keeping related documents on "
            f"one side; ask for train_size={possible[0]} and val_size={possible[1]}, leave both out, or pass scale=true"
        )
    remark = f"keeping related documents on one side costs {sum(sizes) - sum(possible)} of {sum(sizes)} samples"
    return _replanned(plan, possible, limits, counts), [remark]


def _replanned(plan: MixturePlan, sizes: tuple[int, int], limits: Limits, counts: list[dict[Band, int]]) -> MixturePlan:
    """Write the sizes and rows that will really be drawn into the plan."""
    by_side = [target_rows(have, [size], limits) for have, size in zip(counts, sizes, strict=True)]
    rows: dict[Band, int] = {band: sum(side[band] for side in by_side) for band in BANDS}
    return replace(plan, train_size=sizes[0], val_size=sizes[1], limits=limits, rows=rows)


def _band_counts(cells: Cells) -> dict[Band, int]:
    return dict(zip(BANDS, cells.sum(axis=1).tolist(), strict=True))


def _pick(candidates: Candidates, rows: Indices, wanted: Cells, hashes: npt.NDArray[np.uint64]) -> Indices:
    """Pick the rows of each cell: sources in proportion, inside a source the smallest hashes."""
    picked = []
    sources = len(candidates.source_names)
    for band, trivium in np.ndindex(wanted.shape):
        if not wanted[band, trivium]:
            continue
        cell = rows[(candidates.bands[rows] == band) & (candidates.trivia[rows] == trivium)]
        by_source = np.bincount(candidates.sources[cell], minlength=sources).tolist()
        for source, count in enumerate(largest_remainder(int(wanted[band, trivium]), by_source)):
            of_source = cell[candidates.sources[cell] == source]
            picked.append(of_source[np.argsort(hashes[of_source], kind="stable")[:count]])
    return np.concatenate(picked)


def _hashes(key: str, ids: Sequence[str]) -> npt.NDArray[np.uint64]:
    return np.fromiter((keyed_hash(key, name) for name in ids), np.uint64, len(ids))


def _trivium_remarks(side: str, allocation: Allocation, size: int) -> list[str]:
    low, high = (float(limit * 100) for limit in TRIVIUM_LIMITS)
    remarks = []
    for column, (name, excess) in enumerate(allocation.trivium_excess.items()):
        if excess:
            share = 100 * int(allocation.cells[:, column].sum()) / size
            way = f"{excess} samples above" if excess > 0 else f"{-excess} samples below"
            remarks.append(
                f"{side}: {name} holds {share:.1f} % of the samples, {way} its {low:g}-{high:g} %; the bands come first"
            )
    return remarks
