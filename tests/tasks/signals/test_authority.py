from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.schemas import TIERS
from tasks.signals import authority as a

counts = st.integers(0, 10_000)
lengths = st.integers(0, 10_000_000)


@pytest.mark.parametrize(
    ("year", "modern"), [(None, 0.5), (1000, 0.0), (1970, 0.0), (1982, 0.48), (1995, 1.0), (9999, 1.0)]
)
def test_modern_share(year: int | None, modern: float) -> None:
    assert a.modern_share(year) == pytest.approx(modern)


def test_published_points() -> None:
    assert a.citation_score(30, 1.0) == pytest.approx(0.15)
    assert a.citation_score(0, 1.0) == 0.0
    assert a.consensus_score(1, 1.0) == pytest.approx(0.10)
    assert a.primary_score(5, 1.0) == pytest.approx(0.5)
    assert a.institution_score(dict.fromkeys(TIERS, 0) | {"A": 2}, 1.0) == pytest.approx(0.175)
    assert a.length_units(100) == 1.0
    assert a.length_units(12_000) == 2.0


def test_tiers_are_the_stores() -> None:
    assert tuple(a.TIER_WEIGHTS) == TIERS


@given(counts, counts, lengths)
def test_terms_grow_with_the_count_and_stay_in_bounds(count: int, more: int, length: int) -> None:
    units = a.length_units(length)
    tiers = dict.fromkeys(TIERS, count)
    for term, maximum in (
        (a.citation_score, a.CITATION_MAXIMUM),
        (a.consensus_score, a.CONSENSUS_MAXIMUM),
        (a.primary_score, 1.0),
    ):
        assert 0.0 <= term(count, units) <= term(count + more, units) <= maximum
    assert 0.0 <= a.institution_score(tiers, units) <= a.INSTITUTION_MAXIMUM
    for tier in TIERS:
        grown = tiers | {tier: count + more}
        assert a.institution_score(tiers, units) <= a.institution_score(grown, units) + 1e-12


@given(counts, st.integers(6000, 100_000), st.integers(2, 20))
def test_a_text_repeated_keeps_its_rates(count: int, length: int, times: int) -> None:
    once = a.primary_score(count, a.length_units(length))
    again = a.primary_score(count * times, a.length_units(length * times))
    assert math.isclose(once, again, abs_tol=1e-9)


@given(st.floats(0, 1), st.floats(0, 0.15), st.floats(0, 0.35), st.floats(0, 0.2), st.floats(0, 1))
def test_authority_is_monotone_and_bounded(
    modern: float, citation: float, institution: float, consensus: float, primary: float
) -> None:
    base = a.text_authority(modern, citation, institution, consensus, primary)
    assert 0.0 <= base <= a.AUTHORITY_MAXIMUM
    assert a.text_authority(modern, 0.15, institution, consensus, primary) >= base
    assert a.text_authority(modern, citation, 0.35, consensus, primary) >= base
    assert a.text_authority(modern, citation, institution, 0.2, primary) >= base
    assert a.text_authority(modern, citation, institution, consensus, 1.0) <= base
    assert a.text_authority(1.0, citation, institution, consensus, primary) >= base
