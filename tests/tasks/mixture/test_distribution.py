from __future__ import annotations

import numpy as np
import pytest

from storage.errors import ParameterError
from tasks.mixture.bands import TYPICAL_SOURCES
from tasks.mixture.distribution import Distribution, advise, format_distribution, measure_distribution

GOLDEN = """\
Total samples: 80000
Low authority (<0.3):   22400 ( 28.0%) - Target: 25-30% ✓
Medium authority:       24800 ( 31.0%) - Target: 25-35% ✓
High authority (>0.7):  32800 ( 41.0%) - Target: 35-40% ⚠

Trivium Categories:
  Grammar:   24000 ( 30.0%)
  Logic:     32000 ( 40.0%)
  Rhetoric:  24000 ( 30.0%)

Provenance Entropy:
  Mean: 3.84 bits ✓
  Min:  0.80 bits
  Max:  9.20 bits"""


def test_the_guides_example_with_its_high_band_flagged() -> None:
    authority = np.repeat([0.05, 0.5, 0.9], [22_400, 24_800, 32_800])
    entropy = np.repeat([9.2, 3.5, 0.8, 0.0], [22_400, 24_800, 32_799, 0])
    entropy = np.append(entropy, 0.8)
    entropy[22_400:47_200] = 3.0294
    trivia = ["grammar"] * 24_000 + ["logic"] * 32_000 + ["rhetoric"] * 24_000
    distribution = measure_distribution(authority, entropy, trivia)
    assert format_distribution(distribution) == GOLDEN
    assert distribution.verdict == "acceptable"


def test_weak_mixtures_carry_their_notes() -> None:
    distribution = measure_distribution([0.1] + [0.5] * 9, [2.5] * 10, ["logic"] * 10)
    text = format_distribution(distribution)
    assert "Low authority (<0.3):       1 ( 10.0%) - Target: 25-30% ✗" in text
    assert "Logic:        10 (100.0%) ✗" in text
    assert "Grammar:       0 (  0.0%) ⚠" in text
    assert "Mean: 2.50 bits ✗ (expected 3.5 to 6.0)" in text
    assert "Max:  2.50 bits (expected above 7.0)" in text
    assert distribution.verdict == "poor"


@pytest.mark.parametrize(
    ("low", "verdict"), [(19, "poor"), (20, "acceptable"), (24, "acceptable"), (25, "good"), (30, "good")]
)
def test_the_verdict_on_low_authority(low: int, verdict: str) -> None:
    authority = [0.1] * low + [0.5] * 35 + [0.9] * (65 - low)
    assert measure_distribution(authority, [1.0] * 100, ["logic"] * 100).bands["low"].verdict == verdict


def test_edges_belong_to_the_medium_band_in_both_precisions() -> None:
    for dtype in (np.float32, np.float64):
        distribution = measure_distribution(np.array([0.3, 0.7], dtype), [1.0, 2.0], ["logic", "grammar"])
        assert distribution.bands["medium"].count == 2


@pytest.mark.parametrize(
    ("bits", "verdict"), [(2.99, "poor"), (3.0, "acceptable"), (3.5, "good"), (6.0, "good"), (6.1, "acceptable")]
)
def test_the_verdict_on_entropy(bits: float, verdict: str) -> None:
    distribution = measure_distribution([0.1], [bits], ["logic"])
    dumped = distribution.model_dump(mode="json")
    assert dumped["entropy"]["verdict"] == distribution.entropy.verdict == verdict
    assert Distribution.model_validate(dumped) == distribution


def test_advice_on_entropy_names_what_to_download() -> None:
    def advice(*bits: float) -> str:
        return "\n".join(line for line in advise(measure_distribution([0.1] * len(bits), bits, ["logic"] * len(bits))))

    low, high = TYPICAL_SOURCES["low"], TYPICAL_SOURCES["high"]
    assert f"mean entropy is 2.50 bits, below 3.5 to 6.0: download more of {low} and rebalance" in advice(2.5)
    assert f"mean entropy is 7.50 bits, above 3.5 to 6.0: download more of {high} and rebalance" in advice(7.5)
    assert f"for contrast are missing; download more of {high}" in advice(7.5)
    assert f"primary sources are missing; download more of {low}" in advice(2.5)
    assert "entropy" not in advice(1.0, 8.0) and "bits" not in advice(1.0, 8.0)


@pytest.mark.parametrize("columns", [([], [], []), ([0.1], [5.0], [])])
def test_columns_must_match(columns: tuple[list[float], list[float], list[str]]) -> None:
    with pytest.raises(ParameterError, match="at least one sample"):
        measure_distribution(*columns)
