"""Settle what each side holds and how large it can be, whole groups being on one side only."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from storage.errors import MixtureError
from storage.vocabulary import BANDS, TRIVIA, Band
from tasks.mixture.allocate import Cells
from tasks.mixture.bands import Limits, band_limits, fits, largest_side, target_rows
from tasks.mixture.candidates import Candidates, Indices
from tasks.mixture.parameters import MixtureParameters
from tasks.mixture.sample import MixturePlan
from tasks.mixture.split import assign_sides

_ADVICE_ROUNDS = 8

Sizes = tuple[int, int]


@dataclass(frozen=True)
class Sides:
    """The candidates of training and of validation, and their counts by band and trivium."""

    rows: tuple[Indices, Indices]
    cells: tuple[Cells, Cells]

    @property
    def counts(self) -> tuple[dict[Band, int], dict[Band, int]]:
        """Candidates of each band, by side."""
        train, val = (dict(zip(BANDS, cells.sum(axis=1).tolist(), strict=True)) for cells in self.cells)
        return train, val

    def fit(self, sizes: Sizes, limits: Limits) -> bool:
        """Tell whether both sides can be filled to these sizes."""
        return all(fits(have, [size], limits) for have, size in zip(self.counts, sizes, strict=True))

    def shrunk(self, sizes: Sizes, limits: Limits) -> Sizes:
        """Shrink each side to what it can fill, each by itself: holding the ratio would cost the larger side more."""
        train, val = (largest_side(have, limits, size) for have, size in zip(self.counts, sizes, strict=True))
        return train, val


def settle_sides(
    candidates: Candidates, plan: MixturePlan, p: MixtureParameters
) -> tuple[Sides, MixturePlan, list[str]]:
    """Split the candidates and fit the planned sizes to what the whole groups of each side hold.

    Returns:
        The sides, the plan with the sizes and rows that will really be drawn, and remarks.

    Raises:
        MixtureError: A size was asked for exactly and the groups do not allow it.
    """
    sizes = (plan.train_size, plan.val_size)
    sides = split_candidates(candidates, plan.val_share, p.seed)
    loosest = band_limits(p.min_low_authority) if plan.balanced else plan.limits
    for limits in (plan.limits, loosest):
        if sides.fit(sizes, limits):
            return sides, _replanned(plan, sizes, limits, sides), []
    possible = sides.shrunk(sizes, loosest)
    if not all(possible):
        raise MixtureError(
            "the groups of related documents are too few or too large to give both sides every band: "
            f"{_listed(sides.counts[0])} samples fall to training, {_listed(sides.counts[1])} to validation; download "
            f"more documents or lower max_pieces (now {p.max_pieces})"
        )
    asked = (p.train_size, p.val_size)
    if (
        p.scale
        or not plan.balanced
        or all(wish is None or wish == size for wish, size in zip(asked, possible, strict=True))
    ):
        remark = f"keeping related documents on one side costs {sum(sizes) - sum(possible)} of {sum(sizes)} samples"
        requested = plan.requested or (None if asked == (None, None) else sizes)
        return sides, replace(_replanned(plan, possible, loosest, sides), requested=requested), [remark]
    advice = _sizes_that_work(candidates, possible, loosest, p.seed)
    instead = f"ask for train_size={advice[0]} and val_size={advice[1]}" if advice else "leave both out"
    raise MixtureError(
        f"{sizes[0]} training and {sizes[1]} validation samples fit the bands, but not while related documents stay on "
        f"one side; {instead}, or pass scale=true"
    )


def split_candidates(candidates: Candidates, val_share: Fraction, seed: int) -> Sides:
    """Assign every candidate to a side."""
    strata = np.stack([candidates.bands, candidates.trivia, candidates.sources], axis=1)
    on_valid = assign_sides(candidates.groups, candidates.group_names, strata, val_share, seed)
    train, val = np.flatnonzero(~on_valid), np.flatnonzero(on_valid)
    return Sides((train, val), (_cells(candidates, train), _cells(candidates, val)))


def _sizes_that_work(candidates: Candidates, sizes: Sizes, limits: Limits, seed: int) -> Sizes | None:
    """Find sizes that can be asked for: other sizes have another ratio and hence other sides."""
    for _ in range(_ADVICE_ROUNDS):
        sides = split_candidates(candidates, Fraction(sizes[1], sum(sizes)), seed)
        if sides.fit(sizes, limits):
            return sizes
        sizes = sides.shrunk(sizes, limits)
        if not all(sizes):
            break
    return None


def _listed(counts: dict[Band, int]) -> str:
    return ", ".join(f"{rows} {band}" for band, rows in counts.items())


def _cells(candidates: Candidates, rows: Indices) -> Cells:
    """Count rows by band and trivium."""
    flat = candidates.bands[rows] * len(TRIVIA) + candidates.trivia[rows]
    return np.bincount(flat, minlength=len(BANDS) * len(TRIVIA)).reshape(len(BANDS), len(TRIVIA)).astype(np.int64)


def _replanned(plan: MixturePlan, sizes: Sizes, limits: Limits, sides: Sides) -> MixturePlan:
    """Write the sizes and rows that will really be drawn into the plan."""
    by_side = [target_rows(have, [size], limits) for have, size in zip(sides.counts, sizes, strict=True)]
    rows: dict[Band, int] = {band: sum(side[band] for side in by_side) for band in BANDS}
    return replace(plan, train_size=sizes[0], val_size=sizes[1], limits=limits, rows=rows)
