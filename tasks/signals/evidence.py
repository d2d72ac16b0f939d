"""What a text shows: the counts that every formula of scoring v1 starts from."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from storage.schemas import EVIDENCE_TYPES, TIERS
from tasks.signals.lexicon import LEXICON, Phrase, compile_for_python, key_of, list_phrases
from tasks.signals.patterns import CITATIONS, MARKERS, Marker

_LEXICON = compile_for_python(list_phrases(LEXICON))
_PHRASES = {phrase.key: phrase for phrase in LEXICON}
_MARKERS = tuple((compile_for_python(marker.pattern), marker) for marker in MARKERS.values())
_CITATIONS = tuple(compile_for_python(pattern) for pattern in CITATIONS.values())


@dataclass(frozen=True)
class Evidence:
    """Counts of one document."""

    characters: int
    """Length in code points."""
    marks: int
    """Lexicon phrases and markers found, of any kind."""
    citations: int
    consensus: int
    primary: int
    """Markers of primary evidence, by their weights."""
    tiers: Mapping[str, int]
    """Mentions of institutions by tier, all of `TIERS`."""
    kinds: Mapping[str, int]
    """Mentions by evidence type, all of `EVIDENCE_TYPES`."""

    @property
    def total(self) -> int:
        """Everything found: how much the text has to say about its own provenance."""
        return self.marks + self.citations


def find_evidence(text: str) -> Evidence:
    """Count the evidence in a clean text."""
    tiers: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    marks = consensus = primary = 0
    found: list[tuple[Phrase | Marker, int]] = [(_PHRASES[key_of(span)], 1) for span in _LEXICON.findall(text)]
    found += [(marker, _count(pattern, text)) for pattern, marker in _MARKERS]
    for mark, count in found:
        marks += count
        consensus += mark.consensus * count
        primary += mark.primary * count
        if mark.tier:
            tiers[mark.tier] += count
        if mark.kind:
            kinds[mark.kind] += count
    return Evidence(
        characters=len(text),
        marks=marks,
        citations=sum(_count(pattern, text) for pattern in _CITATIONS),
        consensus=consensus,
        primary=primary,
        tiers={tier: tiers[tier] for tier in TIERS},
        kinds={kind: kinds[kind] for kind in EVIDENCE_TYPES},
    )


def find_phrases(text: str) -> list[str]:
    """List what was found in a clean text, as often as it was: phrases of the lexicon, markers and citations."""
    spans = [key_of(span) for span in _LEXICON.findall(text)]
    for pattern in (*(pattern for pattern, _ in _MARKERS), *_CITATIONS):
        spans += [match.group().strip() for match in pattern.finditer(text)]
    return spans


def _count(pattern: re.Pattern[str], text: str) -> int:
    return sum(1 for _ in pattern.finditer(text))
