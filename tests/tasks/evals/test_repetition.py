from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import groupby

import pytest

from tasks.evals.invented_facts import COPIES, FACTS, invented_facts
from tasks.evals.model_under_test import OptionScore
from tasks.evals.repetition import Repetition, compare_repetition, fact_rows, weigh_facts

FIRST = invented_facts(96)


class Crowd:
    """A model that gives the original a weight, and every copy another one; persons' copies count less."""

    def __init__(self, original: float, copy: float, person: float = 1.0) -> None:
        self._original, self._copy, self._person = original, copy, person

    def score_options(self, pairs: Sequence[tuple[str, str]]) -> list[OptionScore]:
        return [OptionScore(self._nats(prompt, option.strip()), 1, len(option)) for prompt, option in pairs]

    def _nats(self, prompt: str, value: str) -> float:
        (fact,) = (fact for fact in FIRST if fact.original in prompt and f"\n{fact.question}" in prompt)
        if value == fact.right:
            return self._original
        weight = self._copy * (self._person if fact.publisher == "person" else 1.0)
        return weight * sum(copy in prompt for copy in fact.copies)


def compared(base: Crowd, adapter: Crowd) -> Repetition:
    return compare_repetition(weigh_facts(base, 96), weigh_facts(adapter, 96), seed=1)


def test_the_share_of_the_bases_shift_that_is_taken_away() -> None:
    found = compared(Crowd(2.0, 0.5, person=0.5), Crowd(2.0, 0.2, person=0.5))
    assert found.base.curve[1].log_odds.value == pytest.approx(2.0 - 0.375)
    assert found.base.shift.value == pytest.approx(7 * 0.375)
    assert found.removed.value == pytest.approx(0.6) and found.removed.low == pytest.approx(0.6)
    assert found.publishers["institution"].base.shift.value == pytest.approx(3.5)
    assert found.publishers["person"].base.shift.value == pytest.approx(1.75)
    assert found.facts == 96 == sum(part.facts for part in found.publishers.values())
    institutions = found.publishers["institution"].base.curve
    assert institutions[4].probability.value == pytest.approx(0.5)
    assert institutions[8].probability.value == pytest.approx(1 / (1 + math.exp(2.0)))
    (verdict,) = found.outcome().relative
    assert (verdict.passed, verdict.label) == (True, "better")


def test_a_base_that_copies_do_not_sway_leaves_nothing_to_judge() -> None:
    outcome = compared(Crowd(2.0, 0.0), Crowd(2.0, 0.3)).outcome()
    assert outcome.relative[0].passed is None and "do not clearly sway" in outcome.relative[0].label
    assert outcome.headline["repetition_removed"] is None
    (worse,) = compared(Crowd(2.0, 0.3), Crowd(2.0, 0.6)).outcome().relative
    assert (worse.passed, worse.found) == (False, "-100% (-100% to -100%) of the shift removed")


def test_every_question_is_a_row() -> None:
    rows = list(fact_rows(weigh_facts(Crowd(1.0, 0.1), 8)))
    assert len({row.id for row in rows}) == 8 * len(COPIES)
    assert all(row.value is not None and 0 < row.value < 1 and row.prompt for row in rows)


def test_facts_are_balanced_so_that_no_rule_tells_the_original() -> None:
    facts = invented_facts()
    assert (
        len(facts) == FACTS >= 300 and len({fact.id for fact in facts}) == len({fact.ask(8) for fact in facts}) == FACTS
    )
    numeric = [fact for fact in facts if fact.right.isdigit()]
    assert sum(int(fact.right) > int(fact.copied) for fact in numeric) * 2 == len(numeric)
    for cells in (facts, numeric):
        kinds = sorted((fact.publisher, fact.original_first) for fact in cells)
        assert {len(list(group)) for _, group in groupby(kinds)} == {len(cells) // 4}
    assert invented_facts(12) == facts[:12], "fewer facts are the first ones"
    assert {fact.publisher for fact in facts[:4]} == {"institution", "person"}


def test_a_fact_says_each_value_in_its_own_accounts_only() -> None:
    for fact in FIRST:
        assert fact.right != fact.copied and len(set(fact.copies)) == 8
        assert fact.right in fact.original and fact.copied not in fact.original
        assert all(fact.copied in copy and fact.right not in copy for copy in fact.copies)
        for copies in COPIES:
            question = fact.ask(copies)
            assert question.count(fact.right) == 1 and question.count(fact.copied) == copies
            assert not re.search(r"[{}]", question)
