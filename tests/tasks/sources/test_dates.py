from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.sources.dates import date_of, year_of


@pytest.mark.parametrize(
    ("value", "year"),
    [
        ("1897", 1897),
        ("1855-01-01", 1855),
        ("1855-06", 1855),
        ("2009-09-01T00:00:00Z", 2009),
        ("[1897]", 1897),
        ("[1897?]", 1897),
        ("c1897", 1897),
        ("n.d.", None),
        ("189-?", None),
        ("1897-1901", 1901),
        ("1897, reprinted 2099", 1897),
        ("19230315", 1923),
        ("19239999", None),
        (19230315, 1923),
        (19230300, 1923),
        ("18970000", 1897),
        (19230015, None),
        (19230315.0, 1923),
        ("1855-01-01T00:00:00.1999Z", 1855),
        ("2009-09-01T00:00:00+0000", 2009),
        ("1200 B.C.", None),
        ("1200 bce", None),
        ("0380", None),
        ("4th century BC", None),
        ("18--?", None),
        ("[between 1897 and 1901]", 1901),
        ("1897/1898", 1898),
        ("1901-01-01/1975-12-31", 1975),
        ("\u0661\u0668\u0669\u0667", None),
        (1923, 1923),
        (1923.0, 1923),
        (1923.5, None),
        (0, None),
        (999, None),
        (2027, None),
        (-380, None),
        (1609459200000, None),
        (True, None),
        (None, None),
        (float("nan"), None),
        (date(1901, 2, 3), 1901),
        (datetime(1901, 2, 3, tzinfo=UTC), 1901),
        (["1901"], None),
    ],
)
def test_years_are_read_and_validated(value: Any, year: int | None) -> None:
    assert year_of(value, 2026) == year


@given(st.one_of(st.text(max_size=40), st.integers(), st.floats(), st.booleans(), st.dates()))
def test_a_year_lies_in_its_bounds_or_is_none(value: Any) -> None:
    year = year_of(value, 2026)
    assert year is None or 1000 <= year <= 2026


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("1855-01-01T00:00:00Z", "1855-01-01"),
        ("19230315", "1923-03-15"),
        (19230315, "1923-03-15"),
        (19230315.0, "1923-03-15"),
        (19230300, "1923-03"),
        ("18970000", "1897"),
        (19239999, "19239999"),
        (0, None),
        (0.0, None),
        (True, None),
        (float("nan"), None),
        ("[1897]", "[1897]"),
        ("n.d.", "n.d."),
        ("c1897", "c1897"),
        ("", None),
        (None, None),
        (date(1901, 2, 3), "1901-02-03"),
        (datetime(1901, 2, 3, 4, tzinfo=UTC), "1901-02-03"),
    ],
)
def test_dates_are_iso_where_that_is_certain(value: Any, text: str | None) -> None:
    assert date_of(value) == text
