"""Draw a mixture: split the candidates into two sides, fit the plan to them, and pick the rows of each side.

Whole groups stay on one side, and so do the pieces that answer one prompt where their groups are small enough. Inside a
band every source gives its proportional share; what remains free, inside a source, goes to the trivium. Chance comes
from keyed hashes alone, so the result depends on neither input order, threads nor platform.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from storage.errors import MixtureError
from storage.vocabulary import BANDS, TRIVIA, TRIVIUM_TARGET, Band
from tasks.mixture.bands import Limits, band_limits, fits, largest_side, limits_in_rows, target_rows
from tasks.mixture.parameters import MixtureParameters
from tasks.mixture.sample import MixturePlan, plan_imbalanced, plan_mixture
from tasks.mixture.sides import Candidates, Indices, assign_sides, both_voices, keyed_hashes

Sizes = tuple[int, int]

SIDES = ("train", "valid")
ADVICE_ROUNDS = 8


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


@dataclass(frozen=True)
class _Sides:
    """The candidates of training and of validation, and their counts by band."""

    rows: tuple[Indices, Indices]
    counts: tuple[dict[Band, int], dict[Band, int]]

    def fit(self, sizes: Sizes, limits: Limits) -> bool:
        return all(fits(have, [size], limits) for have, size in zip(self.counts, sizes, strict=True))

    def shrunk(self, sizes: Sizes, limits: Limits) -> Sizes:
        """Shrink each side to what it can fill, each by itself: holding the ratio would cost the larger side more."""
        train, val = (largest_side(have, limits, size) for have, size in zip(self.counts, sizes, strict=True))
        return train, val


def draw_mixture(candidates: Candidates, parameters: MixtureParameters) -> Drawn:
    """Draw a mixture whose every side keeps the bands and whose groups never straddle.

    Depends on the samples themselves, the parameters and the seed only, not on the order of the input.

    Raises:
        MixtureError: The samples do not hold the mixture asked for.
    """
    p, counts = parameters, candidates.band_counts()
    try:
        plan = plan_mixture(counts, p.train_size, p.val_size, p.min_low_authority, p.scale, p.focus)
        sides, plan, remarks = _fit_sizes(candidates, plan, p)
    except MixtureError:
        if not p.accept_imbalance:
            raise
        plan = plan_imbalanced(counts, p.train_size, p.val_size, p.scale, p.focus)
        sides, plan, remarks = _fit_sizes(candidates, plan, p)
        remarks.insert(0, "the corpus cannot keep the shares of the method; these are the nearest ones")
    hashes = keyed_hashes(f"{p.seed}/row", candidates.ids)
    chosen = []
    for name, side, size in zip(SIDES, sides.rows, (plan.train_size, plan.val_size), strict=True):
        wanted = target_rows(candidates.band_counts(side), [size], plan.limits)
        picked = _pick(candidates, side, wanted, hashes)
        remarks += _trivium_remarks(name, candidates.trivia[picked])
        order = np.argsort(
            keyed_hashes(f"{p.seed}/{name}", [candidates.ids[i] for i in picked.tolist()]), kind="stable"
        )
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
        for (low, high), rows in zip(
            limits_in_rows(plan.limits, size).values(), candidates.band_counts(side).values(), strict=True
        ):
            if not low <= rows <= high:
                raise AssertionError(f"a band came out with {rows} of {size} samples, outside {low} to {high}")
    if np.intersect1d(candidates.groups[drawn.train], candidates.groups[drawn.valid]).size:
        raise AssertionError("a group came out on both sides")


def largest_remainder(total: int, weights: list[int]) -> list[int]:
    """Cut `total` in proportion to `weights`; no part exceeds its weight while `total` does not exceed their sum."""
    whole = sum(weights)
    if not whole:
        return [0] * len(weights)
    parts = [total * weight // whole for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda i: (-(total * weights[i] % whole), i))
    for index in by_remainder[: total - sum(parts)]:
        parts[index] += 1
    return parts


def _fit_sizes(
    candidates: Candidates, plan: MixturePlan, p: MixtureParameters
) -> tuple[_Sides, MixturePlan, list[str]]:
    """Split the candidates and fit the planned sizes to what the whole groups of each side hold.

    Returns:
        The sides, the plan with the sizes and rows that will really be drawn, and remarks.

    Raises:
        MixtureError: A size was asked for exactly and the groups do not allow it.
    """
    sizes = (plan.train_size, plan.val_size)
    sides = _split(candidates, plan.val_share, p.seed)
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


def _sizes_that_work(candidates: Candidates, sizes: Sizes, limits: Limits, seed: int) -> Sizes | None:
    """Find sizes that can be asked for: other sizes have another ratio and hence other sides."""
    for _ in range(ADVICE_ROUNDS):
        sides = _split(candidates, Fraction(sizes[1], sum(sizes)), seed)
        if sides.fit(sizes, limits):
            return sizes
        sizes = sides.shrunk(sizes, limits)
        if not all(sizes):
            break
    return None


def _listed(counts: dict[Band, int]) -> str:
    return ", ".join(f"{rows} {band}" for band, rows in counts.items())


def _replanned(plan: MixturePlan, sizes: Sizes, limits: Limits, sides: _Sides) -> MixturePlan:
    """Write the sizes and rows that will really be drawn into the plan."""
    by_side = [target_rows(have, [size], limits) for have, size in zip(sides.counts, sizes, strict=True)]
    rows: dict[Band, int] = {band: sum(side[band] for side in by_side) for band in BANDS}
    return replace(plan, train_size=sizes[0], val_size=sizes[1], limits=limits, rows=rows)


def _split(candidates: Candidates, val_share: Fraction, seed: int) -> _Sides:
    """Assign every candidate to a side."""
    on_valid = assign_sides(candidates, val_share, seed)
    train, val = np.flatnonzero(~on_valid), np.flatnonzero(on_valid)
    return _Sides((train, val), (candidates.band_counts(train), candidates.band_counts(val)))


def _pick(candidates: Candidates, rows: Indices, wanted: dict[Band, int], hashes: npt.NDArray[np.uint64]) -> Indices:
    """Pick the rows of each cell of band, source and trivium: those of a conflict first, then the smallest hashes."""
    sources = len(candidates.source_names)
    cell = (candidates.bands[rows] * sources + candidates.sources[rows]) * len(TRIVIA) + candidates.trivia[rows]
    available = np.bincount(cell, minlength=len(BANDS) * sources * len(TRIVIA)).reshape(len(BANDS), sources, -1)
    quota = allocate(available, [wanted[band] for band in BANDS]).ravel()
    contested = both_voices(candidates.conflicts[rows], candidates.bands[rows], candidates.groups[rows])
    order = np.lexsort((hashes[rows], ~contested, cell))
    starts = np.concatenate([[0], np.cumsum(available.ravel())[:-1]])
    place = np.arange(len(rows)) - starts[cell[order]]
    picked: Indices = rows[order[place < quota[cell[order]]]]
    return picked


def allocate(available: Indices, wanted: Sequence[int]) -> Indices:
    """Choose how many rows each cell gives: sources in proportion inside each band, then the trivium inside a source.

    Args:
        available: (bands, sources, trivia) rows.
        wanted: Rows of each band, no more than it holds.

    Returns:
        (bands, sources, trivia) rows.
    """
    chosen = np.zeros_like(available)
    for band, rows in enumerate(wanted):
        for source, quota in enumerate(largest_remainder(rows, available[band].sum(axis=1).tolist())):
            chosen[band, source] = largest_remainder(quota, available[band, source].tolist())
    total = sum(wanted)
    least, most = (round(share * total) for share in TRIVIUM_TARGET)
    for band, source in np.ndindex(available.shape[:2]):
        cell, have = chosen[band, source], available[band, source]
        for giver in np.argsort(-chosen.sum(axis=(0, 1)), kind="stable").tolist():
            for taker in np.argsort(chosen.sum(axis=(0, 1)), kind="stable").tolist():
                sums = chosen.sum(axis=(0, 1))
                outside = max(sums[giver] - most, least - sums[taker])
                moved = min(outside, sums[giver] - least, most - sums[taker], cell[giver], have[taker] - cell[taker])
                if moved > 0 and giver != taker:
                    cell[giver] -= moved
                    cell[taker] += moved
    return chosen


def _trivium_remarks(side: str, trivia: Indices) -> list[str]:
    low, high = TRIVIUM_TARGET
    least, most = round(low * len(trivia)), round(high * len(trivia))
    remarks = []
    for name, rows in zip(TRIVIA, np.bincount(trivia, minlength=len(TRIVIA)).tolist(), strict=True):
        excess = max(0, rows - most) - max(0, least - rows)
        if excess:
            way = f"{excess} samples above" if excess > 0 else f"{-excess} samples below"
            remarks.append(
                f"{side}: {name} holds {100 * rows / len(trivia):.1f} % of the samples, {way} its "
                f"{100 * low:g}-{100 * high:g} %; the bands and the sources come first"
            )
    return remarks
