"""The formulas of scoring v1, one row at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.schemas import EVIDENCE_TYPES, TIERS
from tasks.signals import formulas as f
from tasks.signals.scan import Counts

counts = st.integers(0, 10_000)
kinds = st.fixed_dictionaries({kind: st.integers(0, 500) | st.just(0) for kind in EVIDENCE_TYPES})
years = st.sampled_from([None, 1923, 1969, 1970, 2024, 9999])


def row(values: list[int]) -> np.ndarray:
    return np.array([values], dtype=np.int64)


def counted(**fields: int) -> Counts:
    """Return the counts of one text of 6,000 characters; the fields are those of `Counts`, tiers or kinds."""
    return Counts(
        characters=np.array([fields.get("characters", 6000)]),
        citations=np.array([fields.get("citations", 0)]),
        marks=np.array([fields.get("marks", 0)]),
        consensus=np.array([fields.get("consensus", 0)]),
        primary=np.array([fields.get("primary", 0)]),
        tiers=row([fields.get(tier, 0) for tier in TIERS]),
        kinds=row([fields.get(kind, 0) for kind in EVIDENCE_TYPES]),
        text_year=np.array([np.nan]),
    )


def terms(found: Counts, year: int | None = None, source_type: str = "unknown") -> dict[str, float]:
    given_year = np.array([np.nan if year is None else year], dtype=np.float64)
    kind = np.array([f.TYPE_NAMES.index(source_type)])  # type: ignore[arg-type]
    dating = f.Dating(given_year, np.array([0]), np.array([False]), kind)
    return {name: float(value[0]) for name, value in f.apply_formulas(dating, found).items()}


def test_published_points() -> None:
    assert terms(counted(citations=30))["citation"] == pytest.approx(0.15)
    assert terms(counted())["citation"] == 0.0
    assert terms(counted(consensus=1))["consensus"] == pytest.approx(0.10)
    assert terms(counted(primary=5))["primary"] == pytest.approx(0.5)
    assert terms(counted(primary=10, characters=12_000))["primary"] == pytest.approx(0.5)
    assert terms(counted(A=2))["institution"] == pytest.approx(0.175)
    for year, modern in ((None, 0.5), (1000, 0.0), (1970, 0.0), (1982, 0.48), (1995, 1.0), (9999, 1.0)):
        assert terms(counted(), year)["age_auth"] == pytest.approx(0.15 + 0.30 * modern)


@given(counts, counts, st.integers(0, 100_000), years)
def test_coordinated_signs_only_raise_authority_and_primary_ones_only_lower_it(
    count: int, more: int, length: int, year: int | None
) -> None:
    base = dict(citations=count, consensus=count, primary=count, A=count, marks=count, characters=length)
    before = terms(counted(**base), year)
    assert 0.0 <= before["text_auth"] <= f.AUTHORITY_MAXIMUM
    for name, sign in (("citations", 1), ("consensus", 1), ("A", 1), ("primary", -1)):
        after = terms(counted(**base | {name: count + more}), year)
        assert sign * (after["text_auth"] - before["text_auth"]) >= -1e-12
        assert sign * (after["text_bits"] - before["text_bits"]) <= 1e-12


@given(kinds, years)
def test_the_chain_rule_of_the_mix_and_its_bounds(found: dict[str, int], year: int | None) -> None:
    got = terms(counted(**found), year)
    share, primary_bits = got["primary_share"], got["primary_bits"]
    group = f.UNEDITABLE_IN_PRINT if year is not None and year < f.OLD_YEAR else f.UNEDITABLE
    rest = terms(counted(**{kind: count for kind, count in found.items() if kind not in group}), year)["types_bits"]
    either = -sum(part * math.log2(part) for part in (share, 1 - share) if part > 0)
    expected = either + share * primary_bits + (1 - share) * rest if any(found.values()) else 0.0
    assert math.isclose(got["types_bits"], expected, abs_tol=1e-9)
    assert 0.0 <= primary_bits <= math.log2(len(group)) + 1e-9
    doubled = terms(counted(**{kind: 2 * count for kind, count in found.items()}), year)
    assert doubled["primary_bits"] == pytest.approx(primary_bits, abs=1e-9)
