from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.schemas import EVIDENCE_TYPES
from tasks.signals import provenance as p

kinds = st.fixed_dictionaries({kind: st.integers(0, 500) | st.just(0) for kind in EVIDENCE_TYPES})
years = st.sampled_from([None, 1923, 1969, 1970, 2024, 9999])
shares = st.floats(0, 1)


def test_the_uneditable_types_are_known_types() -> None:
    assert set(p.UNEDITABLE) < set(p.UNEDITABLE_IN_PRINT) < set(EVIDENCE_TYPES)
    assert p.uneditable_types(1969) == p.UNEDITABLE_IN_PRINT
    assert p.uneditable_types(1970) == p.uneditable_types(None) == p.UNEDITABLE


@pytest.mark.parametrize(
    ("weights", "bits"), [([], 0), ([0, 0], 0), ([3], 0), ([1, 1], 1), ([2, 2, 2, 2], 2), ([3, 1], 0.8112781244591328)]
)
def test_entropy_bits(weights: list[float], bits: float) -> None:
    assert p.entropy_bits(weights) == pytest.approx(bits)


@given(kinds, years)
def test_chain_rule(counts: dict[str, int], year: int | None) -> None:
    share, types_bits, primary_bits = p.evidence_bits(counts, year)
    weights = p.type_weights(counts)
    rest = [weights[kind] for kind in EVIDENCE_TYPES if kind not in p.uneditable_types(year)]
    either = p.entropy_bits([share, 1 - share])
    expected = either + share * primary_bits + (1 - share) * p.entropy_bits(rest) if any(counts.values()) else 0.0
    assert math.isclose(types_bits, expected, abs_tol=1e-9)


@given(kinds, years)
def test_the_mix_is_bounded_and_free_of_scale(counts: dict[str, int], year: int | None) -> None:
    share, types_bits, primary_bits = p.evidence_bits(counts, year)
    assert 0.0 <= share <= 1.0 + 1e-12
    assert 0.0 <= types_bits <= math.log2(len(EVIDENCE_TYPES)) + 1e-9
    assert 0.0 <= primary_bits <= math.log2(len(p.uneditable_types(year))) + 1e-9
    doubled = p.evidence_bits({kind: 2 * count for kind, count in counts.items()}, year)
    assert doubled == pytest.approx((share, types_bits, primary_bits), abs=1e-9)


def test_coordinated_types_do_not_raise_the_bits() -> None:
    none = dict.fromkeys(EVIDENCE_TYPES, 0)
    for kind in ("wiki", "blog", "news", "government"):
        share, _, primary_bits = p.evidence_bits(none | {kind: 9}, 2024)
        assert share * primary_bits == 0.0


@given(shares, st.floats(0, 3.3), shares, st.floats(0, 0.35), st.floats(0, 0.2))
def test_bits_are_monotone_and_bounded(
    modern: float, mix: float, primary: float, institution: float, consensus: float
) -> None:
    base = p.text_bits(modern, mix, primary, institution, consensus)
    assert 0.0 <= base <= p.BITS_MAXIMUM
    assert p.text_bits(modern, mix, 1.0, institution, consensus) >= base
    assert p.text_bits(modern, 3.4, primary, institution, consensus) >= base
    assert p.text_bits(modern, mix, primary, 0.35, consensus) <= base
    assert p.text_bits(modern, mix, primary, institution, 0.2) <= base
    assert p.text_bits(1.0, mix, primary, institution, consensus) <= base


@given(st.integers(0, 10_000), st.floats(0, 10), st.floats(0, 10))
def test_without_evidence_the_prior_stands_and_a_known_source_keeps_its_share(
    evidence: int, prior: float, text: float
) -> None:
    known = p.text_weight(evidence, source_known=True)
    assert 0.0 <= known <= p.TEXT_SHARE
    assert p.text_weight(evidence, source_known=False) == pytest.approx(known / p.TEXT_SHARE)
    assert p.blend(prior, text, p.text_weight(0, source_known=True), p.BITS_MAXIMUM) == prior
    mixed = p.blend(prior, text, known, p.BITS_MAXIMUM)
    assert min(prior, text) - 1e-9 <= mixed <= max(prior, text) + 1e-9
    assert abs(mixed - prior) <= p.TEXT_SHARE * abs(text - prior) + 1e-9
