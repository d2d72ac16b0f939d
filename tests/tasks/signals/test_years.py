from __future__ import annotations

import datetime

import pytest

from tasks.signals.reference import score_document
from tasks.signals.years import MODERN_UNDATED, metadata_year, text_year


@pytest.mark.parametrize(
    ("metadata", "year"),
    [
        (None, None),
        ({}, None),
        ({"year": 1923}, 1923),
        ({"year": "1923"}, 1923),
        ({"date": "19230315"}, 1923),
        ({"date": "1923-03-15T00:00:00Z"}, 1923),
        ({"publication_date": "1964-07"}, 1964),
        ({"published": True}, None),
        ({"year": 20240101}, None),
        ({"date": 1609459200000}, None),
        ({"date": "192x"}, None),
        ({"date": "19230315991"}, None),
        ({"year": 0, "date": "1887-01-01"}, 1887),
        ({"date": datetime.date(1923, 1, 1)}, None),
        ({"year": "2099"}, None),
    ],
)
def test_metadata_year(metadata: dict[str, object] | None, year: int | None) -> None:
    assert metadata_year(metadata) == year


@pytest.mark.parametrize(
    ("text", "year"),
    [
        ("", None),
        ("no year at all, 12345 and 1234", None),
        ("In 1623 the First Folio", 1623),
        ("printed in I923", 1923),
        ("I9l4 and 1914", 1914),
        ("Battle of Waterloo 1815 ... last edited 2024", 2024),
        ("1800 Pennsylvania Ave., in 1999 and 1999, then 2010 once", 1999),
        ("Patented July 31, 1923. In 1950 somebody read it.", 1923),
        ("2000 volts, 1900 rpm and 1888-1889", 1889),
        ("2099 and 1901", 1901),
        ("published in 2099; printed 1888", 1888),
        ("x" * 3001 + " filed 1955, 1900, 1900", 1900),
    ],
)
def test_text_year(text: str, year: int | None) -> None:
    assert text_year(text) == year


@pytest.mark.parametrize(
    ("source_type", "year", "effective", "conflict"),
    [
        ("patent_pre1970", None, 1969, False),
        ("patent_pre1970", 1700, 1790, False),
        ("patent_pre1970", 1969, 1969, False),
        ("patent_pre1970", 1970, 1970, True),
        ("wiki", None, MODERN_UNDATED, False),
        ("wiki", 1815, 2001, False),
        ("unknown", None, None, False),
        ("unknown", 1815, 1815, False),
        ("classical_philosophy", 1000, 1000, False),
        ("classical_philosophy", 2013, 2013, True),
    ],
)
def test_effective_year(source_type: str, year: int | None, effective: int | None, conflict: bool) -> None:
    why = score_document("", source_type, year, scoring="v1").components
    assert (why.year, why.conflict) == (effective, conflict)
