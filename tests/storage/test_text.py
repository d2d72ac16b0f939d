from __future__ import annotations

import time
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.text import LONGEST_MARK_RUN, clean_text

PIECES = [
    "a",
    "é",
    "e\u0301",
    "\u017f",
    "\u212a",
    "\u0301",
    "\u0327",
    "-",
    "- ",
    "\n",
    "\r\n",
    "\r",
    " ",
    "\t",
    "\u00a0",
]
messy = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=40).map("".join)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("", ""),
        ("one\r\ntwo\rthree", "one\ntwo\nthree"),
        ("cafe\u0301", "café"),
        ("a  b\t\tc \u00a0 d", "a b c d"),
        ("exam-\nple", "example"),
        ("exam- \n  ple", "example"),
        ("exam-\r\nple", "example"),
        ("a-\nb-\nc-\nd", "abcd"),
        ("é-\nté", "été"),
        ("1914-\n1918 and x-\n\ny", "1914-\n1918 and x-\n\ny"),
        ("two\n\nparagraphs\n    indented", "two\n\nparagraphs\n indented"),
    ],
)
def test_each_rule(text: str, cleaned: str) -> None:
    assert clean_text(text) == cleaned


@given(messy)
@settings(max_examples=60, deadline=None)
def test_cleaning_is_idempotent_and_composed(text: str) -> None:
    cleaned = clean_text(text)
    assert clean_text(cleaned) == cleaned
    assert unicodedata.is_normalized("NFC", cleaned)
    assert "\r" not in cleaned and "  " not in cleaned and "\t" not in cleaned


def test_endless_runs_of_marks_are_left_alone() -> None:
    bearable = "e" + "\u0301\u0327" * (LONGEST_MARK_RUN // 2)
    assert clean_text(bearable) == unicodedata.normalize("NFC", bearable) != bearable
    endless = "e" + "\u0301\u0327" * 200_000
    started = time.process_time()
    assert clean_text(endless) == endless
    assert time.process_time() - started < 5  # CPython's own normalisation would take some two minutes
