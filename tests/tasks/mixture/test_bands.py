from __future__ import annotations

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from storage.vocabulary import BANDS
from tasks.mixture.bands import (
    TARGETS,
    Counts,
    Limits,
    band_limits,
    fits,
    is_whole,
    largest_side,
    largest_total,
    limits_in_rows,
    missing_rows,
    target_rows,
)

COUNTS = st.fixed_dictionaries({band: st.integers(0, 60) for band in BANDS})
LIMITS = st.sampled_from([0.20, 0.22, 0.25, 0.27, 0.30]).map(band_limits)


def fillings(counts: Counts, size: int, limits: Limits) -> set[tuple[int, int]]:
    """All (low, medium) of a side, by trying every one."""
    rows = limits_in_rows(limits, size)
    ranges = [range(rows[band][0], min(rows[band][1], counts[band]) + 1) for band in BANDS]
    return {(low, medium) for low in ranges[0] for medium in ranges[1] if size - low - medium in ranges[2]}


def fits_by_trying(counts: Counts, sizes: tuple[int, int], limits: Limits) -> bool:
    full: Counts = {band: 10_000 for band in BANDS}
    train, val = sizes
    return any(
        a + c <= counts["low"] and b + d <= counts["medium"] and train - a - b + val - c - d <= counts["high"]
        for a, b in fillings(full, train, limits)
        for c, d in fillings(full, val, limits)
    )


@settings(deadline=None)
@given(COUNTS, st.integers(1, 80), LIMITS)
def test_one_side_fits_if_and_only_if_a_filling_exists(counts: Counts, size: int, limits: Limits) -> None:
    assert fits(counts, [size], limits) == bool(fillings(counts, size, limits))


@settings(deadline=None)
@given(COUNTS, st.integers(10, 60), st.integers(10, 30), LIMITS)
def test_two_sides_fit_if_and_only_if_fillings_exist(counts: Counts, train: int, val: int, limits: Limits) -> None:
    assert fits(counts, [train, val], limits) == fits_by_trying(counts, (train, val), limits)


@settings(deadline=None)
@given(COUNTS, LIMITS)
def test_the_largest_total_is_the_largest_real_solution(counts: Counts, limits: Limits) -> None:
    def possible(size: int) -> bool:
        most = {band: min(Fraction(counts[band]), limits[band][1] * size) for band in BANDS}
        return sum(most.values()) >= size and all(counts[band] >= limits[band][0] * size for band in BANDS)

    largest = largest_total(counts, limits)
    assert possible(largest)
    assert not possible(largest + 1)


def test_the_seven_bounds_of_the_guide() -> None:
    assert largest_total({"low": 93_000, "medium": 47_000, "high": 64_000}) == 156_666
    assert largest_total({"low": 25, "medium": 10**6, "high": 10**6}) == 100
    assert largest_total({"low": 10**6, "medium": 30, "high": 10**6}) == 100
    assert largest_total({"low": 10**6, "medium": 10**6, "high": 35}) == 100


@settings(deadline=None)
@given(COUNTS, st.integers(10, 80), LIMITS)
def test_targets_keep_the_limits_and_as_many_low_as_possible(counts: Counts, size: int, limits: Limits) -> None:
    possible = fillings(counts, size, limits)
    if possible:
        target = target_rows(counts, [size], limits)
        assert (target["low"], target["medium"]) in possible
        assert sum(target.values()) == size
        assert target["low"] == max(low for low, _ in possible)


@settings(deadline=None)
@given(COUNTS, st.integers(20, 200))
def test_adding_what_is_missing_is_enough(counts: Counts, size: int) -> None:
    missing = missing_rows(counts, [size])
    if is_whole(TARGETS, size) and missing and all(len(bands) == 1 for bands in missing):
        more: Counts = {band: counts[band] + missing.get((band,), 0) for band in BANDS}
        assert fits(more, [size])


@settings(deadline=None, max_examples=40)
@given(COUNTS, LIMITS)
def test_the_largest_side_fits_and_no_larger_one_does(counts: Counts, limits: Limits) -> None:
    largest = largest_side(counts, limits, 10**9)
    assert largest == 0 or fits(counts, [largest], limits)
    assert not any(fits(counts, [size], limits) for size in range(largest + 1, largest + 40))
