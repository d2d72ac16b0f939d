from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from tasks.evals.model_under_test import OptionScore
from tasks.evals.questions import load_questions
from tasks.evals.trust import YES, compare_trust, signal_rows, weigh_signals

QUESTIONS = load_questions()
SIGNALS = QUESTIONS.scenarios.signals


class Believer:
    """Says yes or no with a mass, and yes to primary sources with one share of it, to others with another."""

    def __init__(self, primary: float, modern: float, mass: float = 0.9, shy_about: str = "") -> None:
        self._share, self._mass, self._shy = {True: primary, False: modern}, mass, shy_about

    def score_options(self, pairs: Sequence[tuple[str, str]]) -> list[OptionScore]:
        return [OptionScore(math.log(self._probability(*pair)), 1, len(pair[1])) for pair in pairs]

    def _probability(self, prompt: str, option: str) -> float:
        share = self._share[any(signal.primary in prompt and signal.topic in prompt for signal in SIGNALS)]
        mass = 0.05 if self._shy and self._shy in prompt else self._mass
        return mass * (share if option == YES else 1 - share)


def test_answers_that_hardly_say_yes_or_no_are_counted_and_left_out() -> None:
    shy = weigh_signals(Believer(0.9, 0.6, shy_about=f"{SIGNALS[0].primary} for"), QUESTIONS)
    sure = weigh_signals(Believer(0.6, 0.6), QUESTIONS)
    found = compare_trust(QUESTIONS, sure, shy, seed=1)
    assert (found.base.unscored, found.adapter.unscored) == (0, 1)
    assert found.adapter.ratio.samples == found.relative_ratio.samples == len(SIGNALS) - 1
    assert found.adapter.ratio.value == pytest.approx(1.5) and found.relative_ratio.value == pytest.approx(1.5)
    assert found.decoys.adapter.samples == sum(signal.decoy for signal in SIGNALS)
    (verdict,), (relative,) = found.outcome().verdicts, found.outcome().relative
    assert (verdict.passed, relative.label) == (True, "better")
    rows = {row.id: row for row in signal_rows(QUESTIONS, shy)}
    unscored = [row for row in rows.values() if row.status == "unscored"]
    assert [row.value for row in unscored] == [None, None] and unscored[0].id == f"{SIGNALS[0].id}:primary"


def test_a_model_that_says_neither_yes_nor_no_is_undecided() -> None:
    mute = weigh_signals(Believer(0.9, 0.6, mass=0.09), QUESTIONS)
    found = compare_trust(QUESTIONS, mute, mute, seed=1)
    assert found.adapter.unscored == len(SIGNALS) and found.adapter.ratio.value is None
    outcome = found.outcome()
    assert outcome.verdicts[0].passed is None and outcome.relative[0].passed is None
