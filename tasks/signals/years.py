"""When a document was made: the year declared, else the years its text mentions.

A mention is only a lower bound on a document's date: a text on Waterloo written in 2024 names 1815. So the
newest credible mention counts, and a source's own interval of years bounds the result.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

from tasks.signals.lexicon import compile_for_python
from tasks.signals.patterns import CUE_CHARACTERS, CUED_YEAR, YEAR_TOKEN

YearEvidence = Literal["metadata", "text", "none"]

RUN_YEAR = 2026
"""The year that scoring v1 takes for "now": a constant, for a score must not depend on the day it is made."""

FIRST_YEAR = 1000
MODERN_UNDATED = 9999
"""Stands for the year of an undated document whose source type has a first year only."""

YEAR_KEYS = ("year", "publication_year", "publication_date", "date", "published")
_DATE = re.compile(r"([0-9]{4})(?:-?[0-9]{2}(?:-?[0-9]{2}(?:[T ].*)?)?)?", re.ASCII | re.DOTALL)

_TOKEN = compile_for_python(YEAR_TOKEN)
_CUED = compile_for_python(CUED_YEAR)
_SCAN_ERRORS = str.maketrans("OoIl", "0011")


def checked_year(value: object, run_year: int = RUN_YEAR) -> int | None:
    """Return `value` if it is a year: an integer (no bool) from 1000 to `run_year`; else none."""
    if isinstance(value, int) and not isinstance(value, bool) and FIRST_YEAR <= value <= run_year:
        return value
    return None


def metadata_year(metadata: Mapping[str, Any] | None, run_year: int = RUN_YEAR) -> int | None:
    """Return the year that a record's metadata declares under one of `YEAR_KEYS`, the first valid one.

    An integer must be a year; a string must be a year or begin as ISO 8601 dates do (``1923``, ``1923-03-15``,
    ``19230315``). Anything else, such as a truth value or a time stamp in milliseconds, declares nothing.
    """
    for key in YEAR_KEYS:
        value = (metadata or {}).get(key)
        if isinstance(value, str) and (match := _DATE.fullmatch(value.strip())):
            value = int(match.group(1))
        if (year := checked_year(value, run_year)) is not None:
            return year
    return None


def text_year(text: str, run_year: int = RUN_YEAR) -> int | None:
    """Return the year that a text dates itself to, if it mentions any up to `run_year`.

    The newest of the cued years ("Patented July 31, 1923") and of those mentioned at least twice; failing
    both, the newest year mentioned.
    """
    tokens = map(token_year, _TOKEN.findall(text))
    mentions = Counter(year for year in tokens if year is not None and year <= run_year)
    repeated = [year for year, count in mentions.items() if count >= 2]
    cues = (match.group() for match in _CUED.finditer(text[:CUE_CHARACTERS]))
    cued = [year for year in map(cued_year, cues) if year <= run_year]
    return max(cued + repeated, default=None) or max(mentions, default=None)


def token_year(token: str) -> int | None:
    """Return the year that a match of `YEAR_TOKEN` means; a longer match is a quantity and none."""
    return int(token.translate(_SCAN_ERRORS)) if len(token) == 4 else None


def cued_year(match: str) -> int:
    """Return the year at the end of a match of `CUED_YEAR`."""
    return int(match[-4:])
