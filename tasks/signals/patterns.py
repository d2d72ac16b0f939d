"""The patterns of scoring v1 beside the lexicon: markers, citations, years.

All are in the dialect that `tasks.signals.lexicon` describes. Each is counted on its own (overlaps between two
patterns are allowed) and begins with, or contains, a literal: that is what lets a regex engine skip ahead.
"""

from __future__ import annotations

from dataclasses import dataclass

YEAR = r"(?:1[5-9]|20)[0-9]{2}"
NAME = r"[A-Z][A-Za-z'-]{1,30}"


@dataclass(frozen=True)
class Marker:
    """A pattern outside the lexicon, and what one match of it counts for."""

    pattern: str
    tier: str | None = None
    consensus: int = 0
    primary: int = 0
    kind: str | None = None


MARKERS: dict[str, Marker] = {
    # Two spellings, so that headlines in capitals ("MAN WHO SHOT MAYOR") do not name the organisation.
    "who_then_word": Marker(r"\bWHO [a-z]", tier="A"),
    "word_then_who": Marker(r"[a-z,;(] ?WHO[^ A-Za-z0-9]", tier="A"),
    "government_address": Marker(r"\.(?:gov|int)\b", tier="B", kind="government"),
    "university_address": Marker(r"\.edu\b", tier="C"),
    "wiki_apparatus": Marker(r"\[edit\]|\bRetrieved [0-9A-Z]", tier="W", kind="wiki"),
    "patent_number": Marker(
        r"\b(?:Pat\.|Patent)(?: Nos?\.?)? ?[0-9]{1,2},[0-9]{3},[0-9]{3}\b"
        r"|\bSerial No\. ?[0-9]"
        r"|\b(?:US|EP|WO|GB|DE|FR) ?[0-9]{6,}\b",
        primary=1,
        kind="patent",
    ),
}

CITATIONS: dict[str, str] = {
    "bracket": r"\[[0-9]{1,3}(?:(?:, ?|; ?|-|\u2013)[0-9]{1,3}){0,20}\]",
    "parenthesis": rf"(?:\(|; ){NAME}(?: et al\.?| and {NAME}| & {NAME})?,? {YEAR}[a-z]?\b",
    "year": rf"\({YEAR}[a-z]?\)",
    "ibidem": r"\b[Ii]bid\b|\b[Oo]p\. ?cit\b|\b[Ll]oc\. ?cit\b",
    "identifier": (r"\b(?:doi|DOI):? ?10\.|doi\.org/10\.|\barXiv:[0-9]|\bPMID:? [0-9]|\bPMC ?[0-9]|\bISBN:? ?[0-9]"),
    "bibliography": rf"\n {{0,4}}\[?[0-9]{{1,3}}[.\]] {NAME}, [A-Z]\.",
}
"""Each citation pattern by name; a document's citations are the sum of their counts."""

_UNITS = (
    "rpm|volts?|ohms?|amperes?|watts?|feet|ft|inches|miles|yards|lbs?|pounds|tons|men|cc|mm|cm|kg|km"
    "|years|hours|words|dollars|degrees|barrels|acres"
)
YEAR_TOKEN = rf"\b(?:[1Il][5-9][0-9OolI]{{2}}|20[0-9]{{2}})\b(?:[ -](?:{_UNITS})\b)?"
"""A year as print or a scan shows it ("I9l4"). A match longer than four characters is a quantity, not a year."""

CUED_YEAR = (
    r"(?i:\b(?:patented|filed|published|copyright|printed|dated|submitted|posted|updated|edited|revised"
    rf"|retrieved|accessed|entered according)\b)[^\n]{{0,40}}?\b({YEAR})\b"
)
"""A year behind a word that dates the document itself; the year is the last four characters of a match."""

CUE_CHARACTERS = 3000
"""Cued years are looked for in this many characters at the beginning of a document."""
