from __future__ import annotations

import random
import re

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.schemas import EVIDENCE_TYPES, TIERS
from tasks.signals.lexicon import (
    LEXICON,
    LEXICON_PATTERN,
    Phrase,
    compile_for_python,
    join_phrases,
    key_of,
    list_phrases,
    spell_for_rust,
)
from tasks.signals.patterns import CITATIONS, MARKERS, YEAR_TOKEN

PYTHON = compile_for_python(LEXICON_PATTERN)
PLAIN = compile_for_python(list_phrases(LEXICON))


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


@given(st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_factored_plain_and_rust_patterns_find_the_same_spans(seed: int) -> None:
    rng = random.Random(seed)
    words = [word for phrase in LEXICON for word in phrase.text.split()]
    gaps = [" ", " ", " ", "\n", "-", "  ", ", ", "", "é", "\u00a0", "    "]
    text = "".join(
        rng.choice((str, str.upper, str.title))(rng.choice(words) if rng.random() < 0.6 else rng.choice(LEXICON).text)
        + rng.choice(gaps)
        for _ in range(80)
    )
    found = PYTHON.findall(text)
    assert found == PLAIN.findall(text)
    assert found == pl.Series([text]).str.extract_all(spell_for_rust(LEXICON_PATTERN)).to_list()[0]


def test_folding_and_boundaries_are_ascii_in_both_dialects() -> None:
    # The long s and the Kelvin sign fold to "s" and "k" in Unicode; an accent is no letter to an ASCII boundary.
    for text, spans in (
        ("\u017ftudies show", []),
        ("log boo\u212a", []),
        ("énews", ["news"]),
        ("STUDIES SHOW", ["STUDIES SHOW"]),
    ):
        assert PYTHON.findall(text) == spans
        assert pl.Series([text]).str.extract_all(spell_for_rust(LEXICON_PATTERN)).to_list()[0] == spans


def test_every_pattern_keeps_to_the_shared_dialect() -> None:
    for pattern in (LEXICON_PATTERN, YEAR_TOKEN, *CITATIONS.values(), *(m.pattern for m in MARKERS.values())):
        assert not re.search(r"\(\?[=!<P]|\\[1-9wWdDsSB]", pattern), pattern
        assert not re.search(r"[^\\][*+](?![A-Za-z])", re.sub(r"\[[^\]]*\]", "", pattern)), pattern


def test_prefixes_of_each_other_are_told_apart() -> None:
    phrases = [Phrase(text, False, "A", 0, 0, None) for text in ("state", "state of", "states")]
    phrases.append(Phrase("XX", True, "A", 0, 0, None))
    pattern = compile_for_python(join_phrases(phrases))
    assert pattern.findall("State, states; state  of; state often XX xx") == [
        "State",
        "states",
        "state  of",
        "state",
        "XX",
    ]
