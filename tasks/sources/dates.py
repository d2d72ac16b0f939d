"""Years and dates out of the many ways in which archives write them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

FIRST_YEAR = 1000
FIRST_ROMAN_YEAR = 1450
"""Below it, what looks like a Roman numeral is a word, as MIX."""

_COMPACT = re.compile(r"(\d{4})(\d{2})(\d{2})", re.ASCII)
_ISO = re.compile(r"\d{4}-\d{2}-\d{2}(?!\d)", re.ASCII)
_MOMENT = re.compile(rf"{_ISO.pattern}(?:$|[T ]\d{{2}}:)", re.ASCII)

_OTHER_ERA = r"(?!\s*(?:B\.?\s?C|A\.?\s?H\b|H\b|hijri|saka|samvat))"
_YEAR = re.compile(rf"(?<!\d)(\d{{4}})(?:[01]\d[0-3]\d)?(?!\d){_OTHER_ERA}", re.ASCII | re.IGNORECASE)
_SHORT_RANGE = re.compile(r"(?<!\d)(\d\d)(\d\d)\s*([-\u2013\u2014/])\s*['\u2019]?(\d\d)(?!\d|-\d)", re.ASCII)
_OPEN = re.compile(
    r"(?<!\d)(\d{4})\s*(?:\+|or later|onwards?|to (?:date|present)"
    r"|[-\u2013\u2014/]\s*(?=$|[?),;.]|present|current|date|today|now|open|9999|uuuu))"
    r"|(?<!\d)(\d{4})-\d\d(?:-\d\d)?/(?=$|\.\.|open)"
    r"|\b(?:after|since|post|not before)\W{0,3}(\d{4})(?!\d)",
    re.ASCII | re.IGNORECASE,
)
_BOUND = re.compile(r"(?:before|not after|until|ante|by)\W{0,3}\d{4}(?!\d)", re.ASCII | re.IGNORECASE)
_DECADE = re.compile(r"(?<!\d)(\d{3})(?:[-\u2013?xu]|0['\u2019]?s\b)(?!\d)", re.ASCII | re.IGNORECASE)
_HUNDRED = re.compile(r"(?<!\d)(\d\d)(?:--|\u2013\u2013|\?\?|xx|uu|00['\u2019]?s\b)", re.ASCII | re.IGNORECASE)
_ROMAN_YEAR = re.compile(
    r"\bM{1,2}(?:CM|CD|D?C{0,4})(?:XC|XL|L?X{0,4})(?:IX|IV|V?I{0,4})\b|\bm(?:cm|cd|dc{0,4})(?:xc|xl|l?x{0,4})(?:ix|iv|v?i{0,4})\b"
)
_CENTURY = re.compile(
    r"(?:(?P<digits>\d\d)(?:st|nd|rd|th|\.|e|ème)?|\b(?P<roman>[XVI]+)(?:e|ème)?|\b(?P<word>[a-z]{5,11}|twenty-first))"
    r"(?=[\s-]*(?:cent\b|centur|c\b|siècle|siecle|jahrh|jh\b|secolo))"
    r"|\b(?:siglo|s\.|sec\.|saec\.)\s*(?P<after>[XVI]+)\b"
    r"|(?P<range>\d\d)(?:st|nd|rd|th)(?=[\s/\u2013-]+(?:\w+[\s-]+){0,2}\d\d(?:st|nd|rd|th)[\s-]*cent)",
    re.IGNORECASE | re.ASCII,
)
_BEFORE_CHRIST = re.compile(r"\bB\.?\s?C", re.IGNORECASE)
_ORDINALS = (
    *("eleventh", "twelfth", "thirteenth", "fourteenth", "fifteenth", "sixteenth"),
    *("seventeenth", "eighteenth", "nineteenth", "twentieth", "twenty-first"),
)
_ROMAN = {"M": 1000, "D": 500, "C": 100, "L": 50, "X": 10, "V": 5, "I": 1}


@dataclass(frozen=True)
class YearSpan:
    """The years in which a text can have been fixed.

    Attributes:
        begin: The first of them.
        end: The last of them; none if the text may have been changed until today ("1929-").
    """

    begin: int
    end: int | None

    def __str__(self) -> str:
        return str(self.begin) if self.begin == self.end else f"{self.begin} to {self.end or 'today'}"

    def extra(self) -> dict[str, int | None]:
        """Return what is kept beside the year of a document: nothing where the span is that one year."""
        return {} if self.begin == self.end else {"year_begin": self.begin, "year_end": self.end}


def year_of(value: Any, current_year: int) -> int | None:
    """Read a year out of metadata: the last one in which the text can have been fixed, as `years_of` finds it."""
    span = years_of(value, current_year)
    return span.end if span else None


def years_of(value: Any, current_year: int) -> YearSpan | None:
    """Read the years out of metadata; none unless there is one in 1000..`current_year`.

    Understands dates, numbers (1923, 19230315, 19230000) and free text: ``[1897?]``, ``c1897``, ``1855-06``,
    ``1929-1933``, ``1929/33``, ``between 1929 and 1933``, ``1929, 1931``, ``189-?``, ``1890s``, ``18--``,
    ``MDCCCXC``, ``19th century``. The span reaches from the first year that is named to the last, so that a reprint
    or a run of volumes is never taken for older than it may be. A span without an end (``1929-``, ``after 1929``)
    has none here either.
    """
    if isinstance(value, date):
        return _single(value.year, current_year)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    text = str(value).strip()
    if compact := _COMPACT.fullmatch(text):
        return _single(int(compact[1]), current_year) if _calendar(*compact.groups()) else None
    if isinstance(value, int) or (len(text) == 4 and text.isascii() and text.isdigit()):
        return _single(int(text), current_year)
    if _MOMENT.match(text):
        return _single(int(text[:4]), current_year)  # what follows is a time; its digits are not a year
    return _years_in(text, current_year)


def _single(year: int, current_year: int) -> YearSpan | None:
    return YearSpan(year, year) if FIRST_YEAR <= year <= current_year else None


def _years_in(text: str, current_year: int) -> YearSpan | None:
    text = re.sub(r"(?<=\d)[\[\]](?=[\d?-])", "", text)  # 18[65] is one number
    text = re.sub(r"[\[\]]", " ", text).strip()
    spans = list(_spans(text)) or list(_centuries(text))
    spans = [(begin, min(end, current_year)) for begin, end in spans if FIRST_YEAR <= begin <= current_year]
    if not spans:
        return None
    begin, end = min(span[0] for span in spans), max(span[1] for span in spans)
    without_end = [int(found[1] or found[2] or found[3]) for found in _OPEN.finditer(text)]
    known = any(year <= current_year for year in without_end) and not _BOUND.search(text)
    return YearSpan(begin, None if known else end)


def _spans(text: str) -> Iterator[tuple[int, int]]:
    """Yield the years and decades that a text names, first and last."""
    for found in _YEAR.findall(text):
        yield int(found), int(found)
    for hundred, first, sign, last in _SHORT_RANGE.findall(text):
        month = sign == "-" and 1 <= int(last) <= 12
        if not month and (end := int(hundred + last) + (100 if last == "00" else 0)) > int(hundred + first):
            yield int(hundred + first), end
    for decade in _DECADE.findall(text):
        yield int(decade) * 10, int(decade) * 10 + 9
    for hundred in _HUNDRED.findall(text):
        yield int(hundred) * 100, int(hundred) * 100 + 99
    for numeral in _ROMAN_YEAR.findall(re.sub(r"(?<=[MDCLXVI])\.? ?(?=[MDCLXVI])", "", text)):
        if len(numeral) > 2 and (year := roman_number(numeral)) >= FIRST_ROMAN_YEAR:  # MD is a doctor
            yield year, year


def _centuries(text: str) -> Iterator[tuple[int, int]]:
    if _BEFORE_CHRIST.search(text):
        return
    for found in _CENTURY.finditer(text):
        digits, numeral, word = found["digits"] or found["range"], found["roman"] or found["after"], found["word"]
        if word and word.lower() not in _ORDINALS:
            continue
        number = _ORDINALS.index(word.lower()) + 11 if word else int(digits) if digits else roman_number(numeral)
        yield number * 100 - 99, number * 100


def roman_number(numeral: str) -> int:
    """Return the value of a Roman numeral."""
    values = [_ROMAN[letter] for letter in numeral.upper()]
    return sum(-value if value < max(values[at:]) else value for at, value in enumerate(values))


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
