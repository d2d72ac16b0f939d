from __future__ import annotations

import re

from storage.schemas import EVIDENCE_TYPES, TIERS
from tasks.signals.lexicon import (
    LEXICON,
    LEXICON_PATTERN,
    compile_for_python,
    key_of,
)
from tasks.signals.patterns import CITATIONS, MARKERS, YEAR_TOKEN

PYTHON = compile_for_python(LEXICON_PATTERN)


def test_the_table_is_whole() -> None:
    assert len(LEXICON) == 321
    assert len({phrase.key for phrase in LEXICON}) == 321
    for phrase in LEXICON:
        assert re.fullmatch(r"[A-Za-z]+(?: [A-Za-z]+)*", phrase.text), phrase
        assert phrase.tier is None or phrase.tier in TIERS
        assert phrase.kind is None or phrase.kind in EVIDENCE_TYPES
        assert phrase.consensus in (0, 1) and phrase.primary in (0, 1, 2)
        assert phrase.tier or phrase.kind or phrase.consensus or phrase.primary, phrase
    assert {phrase.tier for phrase in LEXICON} == {*TIERS, None}
    assert {phrase.kind for phrase in LEXICON} == {*EVIDENCE_TYPES, None}


def test_every_phrase_finds_itself_alone_and_over_a_line_end() -> None:
    for phrase in LEXICON:
        for spelling in (phrase.text, phrase.text.replace(" ", "\n"), phrase.text.replace(" ", " - ")):
            assert [key_of(span) for span in PYTHON.findall(f"({spelling})")] == [phrase.key]
        assert PYTHON.findall(f"x{phrase.text}") != [phrase.text]
        if not phrase.case_sensitive:
            assert [key_of(span) for span in PYTHON.findall(phrase.text.upper())] == [phrase.key]


def test_the_longest_phrase_takes_the_span_and_counts_once() -> None:
    assert PYTHON.findall("His lab notebook, peer-reviewed; in testimony whereof I claim") == [
        "lab notebook",
        "peer-reviewed",
        "in testimony whereof",
        "I claim",
    ]


def test_every_pattern_keeps_to_the_shared_dialect() -> None:
    for pattern in (LEXICON_PATTERN, YEAR_TOKEN, *CITATIONS.values(), *(m.pattern for m in MARKERS.values())):
        assert not re.search(r"\(\?[=!<P]|\\[1-9wWdDsSB]", pattern), pattern
        assert not re.search(r"[^\\][*+](?![A-Za-z])", re.sub(r"\[[^\]]*\]", "", pattern)), pattern
