"""The column-wise cleaning against `clean_text`, and what its look at the bytes relies on."""

from __future__ import annotations

import sys
import unicodedata

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.text import clean_text
from tasks.signals.cleaning import clean_texts

AWKWARD = [
    "\u0301",
    "e\u0301",
    "\u2000",
    "\u2001",
    "\u2002",
    "\u203f",
    "\u2040",
    "\u02ff",
    "\u0300",
    "\u212b",
    "caf\xe9",
]
"""What stands at the borders of the byte ranges, and what changes in normal form C."""
BLANKS = ["-", "- ", "-\n", "- \n", "\n", "\r\n", "\r", " ", "  ", "\t", "\xa0"]
PIECES = [*AWKWARD, *BLANKS, "a", "B", "\xdf", "\u017f", "\u0327", "\u201cso\u201d", "\u2026"]
messy = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=40).map("".join)


@given(st.lists(messy, max_size=6))
@settings(max_examples=150, deadline=None)
def test_a_column_is_cleaned_as_its_texts_are(texts):
    assert clean_texts(pl.Series("text", texts, pl.String)).to_list() == [clean_text(text) for text in texts]


def test_every_character_is_cleaned_alike_at_both_ends_of_a_text():
    characters = map(chr, range(0x3100))
    texts = [f"{character}e{character}" for character in characters]
    assert clean_texts(pl.Series("text", texts)).to_list() == [clean_text(text) for text in texts]


def test_what_the_bytes_clear_is_in_normal_form_whatever_stands_before_it():
    cleared = {*range(0x300), *range(0x2002, 0x2040)}
    assert not any(unicodedata.combining(chr(point)) for point in cleared)
    for point in range(sys.maxunicode + 1):
        decomposed = unicodedata.decomposition(chr(point))
        if decomposed and not decomposed.startswith("<"):
            first, *others = (int(part, 16) for part in decomposed.split())
            assert not cleared.intersection(others), f"U+{point:04X} is composed with one of them"
            assert others or point not in cleared, f"U+{point:04X} becomes U+{first:04X}"
