"""Years and dates out of the many ways in which archives write them."""

from __future__ import annotations

import re
from datetime import date, datetime
from typing import Any

FIRST_YEAR = 1000

_COMPACT = re.compile(r"(\d{4})(\d{2})(\d{2})")
_YEAR = re.compile(r"(?<!\d)\d{4}(?!\d)(?!\s*B\.?\s?C)", re.ASCII | re.IGNORECASE)
_ISO = re.compile(r"\d{4}-\d{2}-\d{2}(?!\d)", re.ASCII)
_MOMENT = re.compile(rf"{_ISO.pattern}(?:$|[T ]\d{{2}}:)", re.ASCII)


def year_of(value: Any, current_year: int) -> int | None:
    """Read a year out of metadata; none unless it lies in 1000..`current_year`.

    Understands dates, numbers (1923, 19230315, 19230000) and free text (``[1897?]``, ``c1897``, ``1855-06``). Of
    several years the latest counts, so that a reprint or a run of volumes is never taken for older than it may be.
    """
    if isinstance(value, date):
        return _checked(value.year, current_year)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    if isinstance(value, float):
        if not value.is_integer():
            return None
        value = int(value)
    text = str(value).strip()
    if compact := _COMPACT.fullmatch(text):
        return _checked(int(compact[1]), current_year) if _calendar(*compact.groups()) else None
    if isinstance(value, int):
        return _checked(value, current_year)
    if _MOMENT.match(text):
        return _checked(int(text[:4]), current_year)  # what follows is a time, whose digits are no year
    years = [year for found in _YEAR.findall(text) if (year := _checked(int(found), current_year))]
    return max(years, default=None)


def date_of(value: Any) -> str | None:
    """Return a date as the archive gives it: ISO where that is certain, else its own words, else none."""
    if isinstance(value, datetime):
        return value.date().isoformat()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a column with gaps often arrives as floats
    if isinstance(value, bool) or value == 0 or not isinstance(value, str | int):
        return None
    text = str(value).strip()
    if (compact := _COMPACT.fullmatch(text)) and (written := _calendar(*compact.groups())):
        return written
    if iso := _ISO.match(text):
        return iso[0]
    return text[:40] or None


def _calendar(year: str, month: str, day: str) -> str | None:
    """Write a compact date as ISO, only as far as it is known (``00`` is not); none if there is no such day."""
    try:
        date(int(year), int(month) or 1, int(day) or 1)
    except ValueError:
        return None
    if month == "00":
        return year if day == "00" else None
    return f"{year}-{month}" if day == "00" else f"{year}-{month}-{day}"


def _checked(year: int, current_year: int) -> int | None:
    return year if FIRST_YEAR <= year <= current_year else None
