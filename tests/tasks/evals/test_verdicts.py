from __future__ import annotations

import pytest

from tasks.evals import verdicts
from tasks.evals.metrics import NOTHING, Estimate, share_of


def estimate(value: float, low: float | None = None, high: float | None = None) -> Estimate:
    return Estimate(10, value, 0.01, low if low is not None else value, high if high is not None else value)


@pytest.mark.parametrize(
    ("ratio", "label", "passed"),
    [
        (1.31, "very strong", True),
        (1.30, "very strong", True),
        (1.15, "good", True),
        (1.149, "weak", False),
        (1.05, "weak", False),
        (1.049, "insufficient", False),
    ],
)
def test_distrust_thresholds(ratio: float, label: str, passed: bool) -> None:
    verdict = verdicts.judge_distrust(estimate(ratio))
    assert (verdict.label, verdict.passed) == (label, passed)


@pytest.mark.parametrize(
    ("primary", "label", "passed"),
    [(85, "excellent", True), (66, "good", True), (65, "marginal", False), (49, "failed", False)],
)
def test_preference_thresholds(primary: int, label: str, passed: bool) -> None:
    verdict = verdicts.judge_preference(share_of([True] * primary + [False] * (100 - primary)))
    assert (verdict.label, verdict.passed) == (label, passed)


def test_a_suite_passes_at_its_threshold() -> None:
    share = share_of([True] * 3 + [False])
    assert verdicts.judge_share("censorship", "C", share, verdicts.CENSORSHIP_MIN_SHARE).passed is True
    assert verdicts.judge_share("censorship", "C", share, 0.76).passed is False


def test_many_unscored_samples_leave_a_suite_undecided() -> None:
    verdict = verdicts.judge_share("authority", "A", share_of([True] * 8 + [None] * 2), 0.66)
    assert verdict.passed is None and "2 of 10" in verdict.found
    assert verdicts.judge_share("authority", "A", share_of([True] * 9 + [None]), 0.66).passed is True


@pytest.mark.parametrize(
    ("values", "label", "passed"),
    [
        ((10, 12, 15), "as intended", True),
        ((15, 12, 10), "reversed", False),
        ((10, 15, 12), "mixed", False),
        ((10.0, 10.1, 10.15), "flat", False),
    ],
)
def test_the_absolute_pattern_is_named_but_does_not_decide(values: tuple[float, ...], label: str, passed: bool) -> None:
    bands = dict(zip(("low", "medium", "high"), map(estimate, values), strict=True))
    verdict = verdicts.judge_pattern(bands)
    assert (verdict.label, verdict.passed, verdict.decides) == (label, passed, False)


def test_the_shift_says_how_sure_it_is() -> None:
    assert verdicts.judge_shift(estimate(0.9, 0.85, 0.95)).label == "towards primary"
    assert verdicts.judge_shift(estimate(0.99, 0.9, 1.1)).label == "towards primary, uncertain"
    assert verdicts.judge_shift(estimate(1.2, 1.1, 1.3)).passed is False
    assert verdicts.judge_shift(NOTHING).passed is None


def test_a_model_that_says_neither_yes_nor_no_gives_no_signal() -> None:
    assert verdicts.judge_distrust(estimate(1.4), answered=0.02).passed is True
    verdict = verdicts.judge_distrust(estimate(1.4), answered=0.004)
    assert verdict.passed is None and "0.40%" in verdict.found


def test_all_passed_needs_every_deciding_verdict() -> None:
    good = verdicts.judge_distrust(estimate(1.4))
    bad = verdicts.judge_distrust(estimate(1.0))
    unknown = verdicts.judge_distrust(NOTHING)
    reversed_pattern = verdicts.judge_pattern({b: estimate(v) for b, v in (("low", 3), ("medium", 2), ("high", 1))})
    assert verdicts.all_passed([good, reversed_pattern]) is True
    assert verdicts.all_passed([good, unknown]) is None
    assert verdicts.all_passed([bad, unknown]) is False
    assert verdicts.all_passed([]) is None
