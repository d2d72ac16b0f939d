"""What a text shows by scoring v1, found with plain regular expressions; `tasks.signals.scan` counts whole tables."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np

from storage.schemas import EVIDENCE_TYPES, TIERS
from tasks.signals.lexicon import LEXICON, Phrase, compile_for_python, key_of, list_phrases
from tasks.signals.patterns import CITATIONS, MARKERS, Marker
from tasks.signals.scan import Counts, Integers
from tasks.signals.years import RUN_YEAR, text_year

_LEXICON = compile_for_python(list_phrases(LEXICON))
_PHRASES = {phrase.key: phrase for phrase in LEXICON}
_MARKERS = tuple((compile_for_python(marker.pattern), marker) for marker in MARKERS.values())
_CITATIONS = tuple(compile_for_python(pattern) for pattern in CITATIONS.values())


def find_evidence(text: str, run_year: int = RUN_YEAR) -> Counts:
    """Count the evidence in a clean text: one row."""
    found: list[tuple[Phrase | Marker, int]] = [(_PHRASES[key_of(span)], 1) for span in _LEXICON.findall(text)]
    found += [(marker, _count(pattern, text)) for pattern, marker in _MARKERS]
    tiers, kinds = Counter[str | None](), Counter[str | None]()
    for mark, count in found:
        tiers[mark.tier] += count
        kinds[mark.kind] += count
    year = text_year(text, run_year)

    def row(values: list[int]) -> Integers:
        return np.array([values], dtype=np.int64)

    return Counts(
        characters=row([len(text)])[0],
        marks=row([sum(count for _, count in found)])[0],
        citations=row([sum(_count(pattern, text) for pattern in _CITATIONS)])[0],
        consensus=row([sum(mark.consensus * count for mark, count in found)])[0],
        primary=row([sum(mark.primary * count for mark, count in found)])[0],
        tiers=row([tiers[tier] for tier in TIERS]),
        kinds=row([kinds[kind] for kind in EVIDENCE_TYPES]),
        text_year=np.array([np.nan if year is None else year], dtype=np.float64),
    )


def find_phrases(text: str) -> list[str]:
    """List what was found in a clean text, as often as it was: phrases of the lexicon, markers and citations."""
    spans = [key_of(span) for span in _LEXICON.findall(text)]
    for pattern in (*(pattern for pattern, _ in _MARKERS), *_CITATIONS):
        spans += [match.group().strip() for match in pattern.finditer(text)]
    return spans


def _count(pattern: re.Pattern[str], text: str) -> int:
    return sum(1 for _ in pattern.finditer(text))
