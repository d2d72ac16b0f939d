"""Texts built to make a pattern backtrack: four times the text must cost about four times the work."""

from __future__ import annotations

import time

import pytest

from tasks.signals.engine import score_table
from tasks.signals.reference import score_document
from tests.tasks.signals.agreement import differences, table_of

HOSTILE = {
    "digits": "1",
    "bibliography": "\n1. a, ",
    "brackets": "[",
    "bracket lists": "[1,",
    "blanks": " ",
    "names": "(Smith, ",
    "capitals": "A",
    "line ends": "\r",
    "broken words": "a-\n",
    "marks": "\u0301\u0327",
    "jamo": "\u1100\u1161",
    "gaps": "world - ",
    "cues": "filed ",
    "scan years": "I9l4I",
    "one word": "word ",
}
SHORT, LONG = 20_000, 80_000
BOUND = 10
"""Between four times the cost (linear) and sixteen times (quadratic); a fixed cost only lowers the ratio."""
TOO_FAST_TO_COMPARE = 0.05


def seconds(text: str, whole_table: bool) -> float:
    """Processor time, which other processes on the machine disturb least."""
    started = time.process_time()
    if whole_table:
        score_table(table_of([(text, "unknown", None, None)]))
    else:
        score_document(text, "unknown")
    return time.process_time() - started


@pytest.mark.parametrize("whole_table", [False, True], ids=["reference", "engine"])
@pytest.mark.parametrize("name", HOSTILE)
def test_cost_is_linear(name: str, whole_table: bool) -> None:
    unit = HOSTILE[name]
    assert_linear(unit, SHORT, LONG, whole_table)


@pytest.mark.parametrize("name", ["digits", "brackets", "one word"])
def test_ten_megabytes_cost_four_times_a_quarter_of_them(name: str) -> None:
    assert_linear(HOSTILE[name], 2_500_000, 10_000_000, whole_table=True)


def assert_linear(unit: str, short: int, long: int, whole_table: bool) -> None:
    ratios: list[float] = []
    while len(ratios) < 3:
        little = seconds(unit * (short // len(unit)), whole_table)
        much = seconds(unit * (long // len(unit)), whole_table)
        ratios.append(much / max(little, TOO_FAST_TO_COMPARE / BOUND))
        if ratios[-1] < BOUND:
            return
    pytest.fail(f"{long} characters cost {ratios} times as much as {short}")


def test_the_engine_agrees_on_hostile_texts() -> None:
    assert not differences([(unit * (4000 // len(unit)), "unknown", None, None) for unit in HOSTILE.values()])
