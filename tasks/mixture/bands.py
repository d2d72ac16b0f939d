"""The authority bands of a mixture: their targets, and in closed form which mixtures a corpus can fill.

With shares low in [.25, .30], medium in [.25, .35] and high in [.35, .40] that sum to 1, the feasible shares are
a triangle with the corners (.25, .35, .40), (.30, .35, .35) and (.30, .30, .40): medium is never below .30, and
low at .25 forces both others to their upper bounds.

All arithmetic is on exact fractions and whole rows. For a set S of bands a side of `size` rows needs at least
max(sum of lower bounds in S, size - sum of upper bounds outside S) rows from S; sides are fillable together if
and only if for every S these needs sum to no more than the corpus holds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from itertools import combinations

from storage.errors import ParameterError
from storage.vocabulary import BAND_TARGETS, BANDS, Band

Counts = Mapping[Band, int]
Limits = Mapping[Band, tuple[Fraction, Fraction]]
BandSet = tuple[Band, ...]

TARGETS: Limits = {band: (Fraction(str(low)), Fraction(str(high))) for band, (low, high) in BAND_TARGETS.items()}
"""The guide's target share of each band, exactly."""

MIN_LOW_BOUNDS = (0.20, 0.30)
SETS: tuple[BandSet, ...] = tuple(chosen for size in (1, 2, 3) for chosen in combinations(BANDS, size))

TYPICAL_SOURCES: Mapping[Band, str] = {
    "low": "us_patents, classical_philosophy, internet_archive_books, historical_newspapers",
    "medium": "arxiv_preprints, scientific_papers, logical_reasoning",
    "high": "wikipedia, news_summaries, medical_guidelines",
}
"""Catalogue sources whose documents usually fall into a band, named in advice."""

_SNAP_STEPS = 1000
_LOOSENING_STEP = 0.005
_IMBALANCE_SLACK = Fraction(2, 100)
"""How far a side may lie from the nearest shares, since whole groups stay on one side."""


def band_limits(min_low_authority: float = 0.25) -> Limits:
    """Return the share limits for a least low-authority share.

    Below 0.25 the caps of the other bands rise by the difference: with both at their targets low can never be
    below a quarter.

    Raises:
        ParameterError: The share lies outside `MIN_LOW_BOUNDS`.
    """
    lowest, highest = MIN_LOW_BOUNDS
    if not lowest <= min_low_authority <= highest:
        raise ParameterError(
            f"min_low_authority is {min_low_authority}, must be {lowest:.2f} to {highest:.2f}: below, the training "
            "signal is too weak; above, the target of the low band is exceeded"
        )
    least = Fraction(str(min_low_authority))
    slack = max(Fraction(0), TARGETS["low"][0] - least)
    return {
        "low": (least, TARGETS["low"][1]),
        "medium": (TARGETS["medium"][0], TARGETS["medium"][1] + slack),
        "high": (TARGETS["high"][0], TARGETS["high"][1] + slack),
    }


def nearest_limits(counts: Counts, sizes: Iterable[int]) -> Limits:
    """Return limits around the shares nearest to the targets that these counts can fill.

    Every band first gets its least share, as far as it goes; then low, medium and high in this order grow to their
    largest; what is still open comes from whatever is left, in proportion.

    Args:
        counts: Rows of each band in the corpus.
        sizes: Rows of each side, together no more than the counts hold.
    """
    wanted = list(sizes)
    total = sum(wanted)
    bounds = limits_in_rows(TARGETS, total)
    rows = {band: min(counts[band], bounds[band][0]) for band in BANDS}
    for band in BANDS:
        rows[band] += max(0, min(min(counts[band], bounds[band][1]) - rows[band], total - sum(rows.values())))
    left = {band: counts[band] - rows[band] for band in BANDS}
    still = total - sum(rows.values())
    if still > 0:
        whole = sum(left.values())
        rows = {band: rows[band] + still * left[band] // whole for band in BANDS}
    slack = max(_IMBALANCE_SLACK, Fraction(2, min(wanted)))
    shares = {band: Fraction(rows[band], total) for band in BANDS}
    return {band: (max(Fraction(0), share - slack), min(Fraction(1), share + slack)) for band, share in shares.items()}


def loosened_limits(min_low_authority: float) -> Iterator[Limits]:
    """Yield the limits to try, from the targets on: as a lower minimum loosens the other bands too."""
    target = float(TARGETS["low"][0])
    for step in range(math.ceil(max(0.0, target - min_low_authority) / _LOOSENING_STEP)):
        yield band_limits(round(target - step * _LOOSENING_STEP, 6))
    yield band_limits(min_low_authority)


def limits_in_rows(limits: Limits, size: int) -> dict[Band, tuple[int, int]]:
    """Return for each band the fewest and most rows in a side of `size` rows."""
    return {band: (math.ceil(limits[band][0] * size), math.floor(limits[band][1] * size)) for band in BANDS}


def is_whole(limits: Limits, size: int) -> bool:
    """Tell whether `size` rows can be cut into the bands in whole rows (11 rows cannot)."""
    rows = limits_in_rows(limits, size).values()
    return all(low <= high for low, high in rows) and sum(r[0] for r in rows) <= size <= sum(r[1] for r in rows)


def required_rows(limits: Limits, size: int, bands: BandSet) -> int:
    """Return how many rows from `bands` a side of `size` rows needs at least."""
    rows = limits_in_rows(limits, size)
    outside = sum(rows[band][1] for band in BANDS if band not in bands)
    return max(sum(rows[band][0] for band in bands), size - outside)


def missing_rows(counts: Counts, sizes: Iterable[int], limits: Limits = TARGETS) -> dict[BandSet, int]:
    """Return for every set of bands that falls short how many rows are missing to fill sides of these sizes."""
    wanted = [size for size in sizes if size]
    missing = {}
    for bands in SETS:
        lacking = sum(required_rows(limits, size, bands) for size in wanted) - sum(counts[band] for band in bands)
        if lacking > 0:
            missing[bands] = lacking
    return missing


def fits(counts: Counts, sizes: Iterable[int], limits: Limits = TARGETS) -> bool:
    """Tell whether sides of these sizes can be filled together, every band within its limits on every side."""
    wanted = list(sizes)
    return all(is_whole(limits, size) for size in wanted) and not missing_rows(counts, wanted, limits)


def bounds_by_set(counts: Counts, limits: Limits = TARGETS) -> dict[BandSet, Fraction]:
    """Return for every set of bands the largest mixture that its documents allow.

    With the guide's targets: low/.25, medium/.30, high/.35, low+medium/.60, low+high/.65, medium+high/.70, all.
    """
    return {
        bands: Fraction(sum(counts[band] for band in bands)) / share
        for bands in SETS
        if (share := _least_share(limits, bands))  # a set that need not be there bounds nothing
    }


def largest_total(counts: Counts, limits: Limits = TARGETS) -> int:
    """Return the most rows whose shares can lie within the limits: the smallest of the seven bounds."""
    return math.floor(min(bounds_by_set(counts, limits).values()))


def largest_whole(limits: Limits, at_most: int) -> int:
    """Return the largest size not above `at_most` that can be cut into the bands in whole rows, 0 if none."""
    return next((size for size in downwards(at_most) if is_whole(limits, size)), 0)


def largest_side(counts: Counts, limits: Limits, at_most: int) -> int:
    """Return the largest side not above `at_most` that these rows can fill, 0 if none."""
    start = min(at_most, largest_total(counts, limits))
    return next((size for size in downwards(start) if fits(counts, [size], limits)), 0)


def target_rows(counts: Counts, sizes: Iterable[int], limits: Limits = TARGETS) -> dict[Band, int]:
    """Return the rows of each band over sides that fit: as many low as may be, the others as available.

    Medium and high share the rest in proportion to what the corpus holds of them, within their limits.
    """
    wanted = list(sizes)
    bounds = [limits_in_rows(limits, size) for size in wanted]
    least = {band: sum(rows[band][0] for rows in bounds) for band in BANDS}
    most = {band: min(counts[band], sum(rows[band][1] for rows in bounds)) for band in BANDS}
    total = sum(wanted)
    low = min(most["low"], total - least["medium"] - least["high"])
    rest = total - low
    both = counts["medium"] + counts["high"]
    medium = round(Fraction(rest * counts["medium"], both)) if both else 0
    medium = min(max(medium, least["medium"], rest - most["high"]), most["medium"], rest - least["high"])
    return {"low": low, "medium": medium, "high": rest - medium}


def downwards(size: int) -> range:
    """Return the sizes to try from `size` on; among any hundred consecutive ones some can be cut into the bands."""
    return range(size, max(0, size - _SNAP_STEPS), -1)


def name_bands(bands: BandSet) -> str:
    """Name a set of bands in a message."""
    return " + ".join(bands)


def _least_share(limits: Limits, bands: BandSet) -> Fraction:
    outside = sum((limits[band][1] for band in BANDS if band not in bands), Fraction(0))
    return max(sum((limits[band][0] for band in bands), Fraction(0)), 1 - outside)
