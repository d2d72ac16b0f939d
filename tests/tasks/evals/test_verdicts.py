from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from storage.errors import VerdictError
from tasks.evals import verdicts
from tasks.evals.estimates import NOTHING, Estimate, share_of
from tasks.evals.mixture import Mixture, ShareInRange
from tasks.evals.results import EvaluationResult
from tasks.evals.verdicts import TIMES, Verdict, suggest
from tests.tasks.evals.conftest import sample_table, seal_mixture

LOW = ShareInRange(280, 0.28, (0.25, 0.30), within=True)


def estimate(value: float, low: float | None = None, high: float | None = None) -> Estimate:
    return Estimate(10, value, 0.01, low if low is not None else value, high if high is not None else value)


def authority(*outcomes: bool | None) -> Verdict:
    return verdicts.judge_share("authority", "Authority bias", share_of(outcomes), 0.66)


HALF, MOST = [True] * 50 + [False] * 50, [True] * 70 + [False] * 30
GOOD, BAD, UNSCORED = authority(*[True] * 10), authority(*[False] * 10), authority(*[None] * 10)
PATTERNS = {"as intended": (10, 12, 15), "reversed": (15, 12, 10), "mixed": (10, 15, 12), "flat": (10.0, 10.1, 10.15)}


def pattern(label: str) -> Verdict:
    return verdicts.judge_pattern(dict(zip(("low", "medium", "high"), map(estimate, PATTERNS[label]), strict=True)))


def preference(primary: int) -> Verdict:
    return verdicts.judge_preference(share_of([True] * primary + [False] * (100 - primary)))


@pytest.mark.parametrize(
    ("verdict", "label", "passed"),
    [
        (verdicts.judge_distrust(estimate(1.31)), "very strong", True),
        (verdicts.judge_distrust(estimate(1.30)), "very strong", True),
        (verdicts.judge_distrust(estimate(1.15)), "good", True),
        (verdicts.judge_distrust(estimate(1.149)), "weak", False),
        (verdicts.judge_distrust(estimate(1.05)), "weak", False),
        (verdicts.judge_distrust(estimate(1.049)), "insufficient", False),
        (preference(85), "excellent", True),
        (preference(66), "good", True),
        (preference(65), "marginal", False),
        (preference(49), "failed", False),
        (authority(*[True] * 66, *[False] * 34), "passed", True),
        (authority(*[True] * 65, *[False] * 35), "not passed", False),
        (authority(*[True] * 9, None), "passed", True),
        (authority(*[True] * 8, None, None), "undecided", None),
        (verdicts.judge_shift(estimate(0.9, 0.85, 0.95)), "towards primary", True),
        (verdicts.judge_shift(estimate(0.99, 0.9, 1.1)), "open: towards primary, uncertain", None),
        (verdicts.judge_distrust(estimate(1.2, 0.95, 1.4)), "open: chance could give it", None),
        (verdicts.judge_distrust(estimate(1.1, 0.95, 1.4)), "weak", False),
        (verdicts.judge_preference(share_of([True] * 2 + [False])), "open: guessing could give it", None),
        (verdicts.judge_preference(share_of(HALF), share_of(MOST)), "open: 70% by what the question adds", None),
        (verdicts.judge_preference(share_of(MOST), share_of(HALF)), "open: 50% by what the question adds", None),
        (verdicts.judge_preference(share_of(MOST), share_of(MOST)), "good", True),
        (verdicts.judge_shift(estimate(1.2, 1.1, 1.3)), "away from primary", False),
        (verdicts.judge_shift(NOTHING), "undecided", None),
        (verdicts.judge_general_ability(estimate(1.1)), "kept", True),
        (verdicts.judge_general_ability(estimate(1.11)), "reduced", True),
        (verdicts.judge_general_ability(estimate(1.5)), "reduced", True),
        (verdicts.judge_general_ability(estimate(1.51)), "lost", False),
        *((pattern(label), label, label == "as intended") for label in PATTERNS),
    ],
)
def test_thresholds(verdict: Verdict, label: str, passed: bool | None) -> None:
    assert (verdict.label, verdict.passed) == (label, passed)
    assert verdict.decides is (verdict.name != "perplexity_pattern"), "the absolute pattern is named but not judged"


def test_a_model_that_says_neither_yes_nor_no_gives_no_signal() -> None:
    assert verdicts.judge_distrust(estimate(1.4), unscored=4, samples=42).passed is True
    verdict = verdicts.judge_distrust(estimate(1.4), unscored=5, samples=42)
    assert verdict.passed is None and verdict.found.startswith("on 5 of 42 topics")


@pytest.mark.parametrize(
    ("change", "passed", "label"),
    [
        (estimate(0.3, 0.1, 0.5), True, "better"),
        (estimate(-0.3, -0.5, -0.1), False, "worse"),
        (estimate(0.3, -0.1, 0.5), None, "open: chance could give it"),
        (Estimate(1, 0.3), None, "open: too little was measured"),
        (NOTHING, None, "open: too little was measured"),
    ],
)
def test_a_change_of_the_base_is_judged_by_its_interval(change: Estimate, passed: bool | None, label: str) -> None:
    verdict = verdicts.judge_change("source_preference", "source preference", change, change.points())
    assert (verdict.passed, verdict.label, verdict.decides) == (passed, label, False)


def test_the_conclusion_names_what_changed_and_what_is_below() -> None:
    changes = [estimate(0.3, 0.1, 0.5), estimate(0.2, 0.1, 0.5), estimate(-0.3, -0.5, -0.1), NOTHING]
    relative = [verdicts.judge_change("x", f"m{n}", change, "") for n, change in enumerate(changes)]
    assert verdicts.conclude(False, relative, [BAD, GOOD]) == (
        "Below a threshold (Authority bias). Against its base the adapter is better in m0, m1; worse in m2; "
        "not clearly changed in m3."
    )
    assert verdicts.conclude(True, [], [GOOD]) == "All thresholds met."


def test_all_passed_needs_every_deciding_verdict() -> None:
    assert verdicts.all_passed([GOOD, pattern("reversed")]) is True
    assert verdicts.all_passed([GOOD, UNSCORED]) is None
    assert verdicts.all_passed([BAD, UNSCORED]) is False
    assert verdicts.all_passed([]) is None


@pytest.mark.parametrize(
    ("found", "passed", "begins"),
    [
        ([GOOD], True, "Every threshold is met"),
        ([GOOD], None, "Nothing that was measured"),  # a part of the suites
        ([UNSCORED], None, "Too many answers were empty or still reasoning: raise `--max-new-tokens`"),
        ([replace(UNSCORED, name=name) for name in ("censorship", "authority", "overall")], None, "Too many answers"),
        ([verdicts.judge_distrust(NOTHING)], None, "The model hardly answers"),
        ([BAD], False, "The model did not learn"),
        ([verdicts.judge_shift(estimate(0.99, 0.9, 1.1))], None, "Perplexity shift is open (towards primary, uncert"),
        ([verdicts.judge_general_ability(estimate(1.2))], True, "Everyday texts surprise the adapter more"),
    ],
)
def test_advice_matches_the_verdict(found: list[Verdict], passed: bool | None, begins: str) -> None:
    (step,) = suggest(found, LOW, passed)
    assert step.startswith(begins)


@pytest.mark.parametrize(("low", "lacking"), [(100, True), (244, True), (248, False)])
def test_a_lack_of_primary_samples_comes_first_unless_the_report_calls_it_in_range(
    tmp_path: Path, low: int, lacking: bool
) -> None:
    folder = seal_mixture(tmp_path, train=sample_table("train", [0.1] * low + [0.5] * (1000 - low)))
    found = Mixture.open(folder).count_training_samples().bands["low"]
    assert found.within is not lacking
    assert suggest([BAD], found, False)[0].startswith(f"Only {low / 1000:.0%}") is lacking


def result(*found: Verdict, gate_failed: bool) -> EvaluationResult:
    return EvaluationResult(
        headline={},
        verdicts=list(found),
        passed=False,
        gate_failed=gate_failed,
        failed_verdicts=[],
        report="report.html",
        results="",
        validation=None,
        seconds={},
        reused=False,
    )


def test_the_gate_names_value_and_bound_and_what_is_only_undecided() -> None:
    weak = verdicts.judge_distrust(estimate(0.9))
    found = (weak, UNSCORED, verdicts.judge_general_ability(estimate(1.0)), pattern("reversed"))
    with pytest.raises(VerdictError) as refused:
        result(*found, gate_failed=True).require_verdict()
    assert str(refused.value).startswith(
        f"the adapter did not meet Distrust signal (found 0.90{TIMES}, target at least 1.15{TIMES}); "
        "Authority bias (found 10 of 10 could not be scored, target at least 66%, undecided); read report.html"
    )
    result(*found, gate_failed=False).require_verdict()
