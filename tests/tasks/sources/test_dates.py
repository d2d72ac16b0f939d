from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.sources.dates import YearSpan, date_of, year_of, years_of


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
        ("189-?", 1899),
        ("1897-1901", 1901),
        ("1897-", None),
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
        ("18--?", 1899),
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


@pytest.mark.parametrize(
    ("value", "begin", "end"),
    [
        ("1929-1933", 1929, 1933),
        ("1933-1929", 1929, 1933),
        ("between 1929 and 1933", 1929, 1933),
        ("1929, 1931", 1929, 1931),
        ("1929/33", 1929, 1933),
        ("1929-33", 1929, 1933),
        ("1929\u201333", 1929, 1933),
        ("1929-'33", 1929, 1933),
        ("1914-[18]", 1914, 1918),
        ("1908/09", 1908, 1909),
        ("1908-09", 1908, 1908),  # a month: that is how the archives write one
        ("1899/00", 1899, 1900),
        ("1895/96-1897", 1895, 1897),
        ("19230315-19290401", 1923, 1929),
        ("1897, reprinted 1972", 1897, 1972),
        ("1972 (orig. 1897)", 1897, 1972),
        ("1897 [i.e. 1898]", 1897, 1898),
        ("MCMXXIX-MCMXXXIII", 1929, 1933),
        ("18--", 1800, 1899),
        ("[18--?]", 1800, 1899),
        ("18xx", 1800, 1899),
        ("19uu", 1900, 1999),
        ("1800s", 1800, 1899),
        ("189-", 1890, 1899),
        ("189?", 1890, 1899),
        ("1890s", 1890, 1899),
        ("187-or 188-", 1870, 1889),
        ("[188-?]-1890", 1880, 1890),
        ("202-", 2020, 2026),
        ("19th century", 1801, 1900),
        ("late nineteenth-century", 1801, 1900),
        ("XIXe si\u00e8cle", 1801, 1900),
        ("s. XIX", 1801, 1900),
        ("19. Jahrhundert", 1801, 1900),
        ("18th or early 19th century", 1701, 1900),
        ("1855 (19th century)", 1855, 1855),
        ("[1929?]", 1929, 1929),
        ("c1931", 1931, 1931),
        ("ca. 1850", 1850, 1850),
        ("18[65]", 1865, 1865),
        ("MDCCCXC", 1890, 1890),
        ("M.DCCC.XC.", 1890, 1890),
        ("anno M DCCC LXXXX", 1890, 1890),
        ("mdcccxc", 1890, 1890),
        ("Smith, MD 1897", 1897, 1897),
        ("1345 A.H. (1926)", 1926, 1926),
        ("not before 1897 and not after 1901", 1897, 1901),
        ("1929-", 1929, None),
        ("[1929-]", 1929, None),
        ("1929-present", 1929, None),
        ("1929 to date", 1929, None),
        ("1889-9999", 1889, None),
        ("1929-05-01/..", 1929, None),
        ("after 1929", 1929, None),
        ("1929 or later", 1929, None),
    ],
)
def test_a_span_keeps_both_ends_and_its_year_is_the_last(value: str, begin: int, end: int | None) -> None:
    assert years_of(value, 2026) == YearSpan(begin, end)
    assert year_of(value, 2026) == end


@pytest.mark.parametrize("value", ["4th century BC", "MIX", "1345 H", "second century", "19291", "vol. 12"])
def test_what_names_no_year_has_no_span(value: str) -> None:
    assert years_of(value, 2026) is None


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
