"""How well a scanned page was read, by the share of its words that a list knows."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

SHORTEST_RATED_CHARS = 600
"""A shorter text has too few words for a share of known ones."""
RATED_CHARS = 20_000
_WORD = re.compile(r"\b[a-z]{3,}\b")
_COMMON = frozenset(("the", "and", "that", "with", "for", "was", "this", "from", "his", "are", "which", "have", "not"))
_ENGLISH_SHARE = 0.06


def ocr_quality(text: str) -> float | None:
    """Return the share of a text's small-letter words that a list of common ones knows; None if that says nothing.

    It says nothing of a text under `SHORTEST_RATED_CHARS` characters, or one that is not English.
    """
    if len(text) < SHORTEST_RATED_CHARS:
        return None
    words = _WORD.findall(text[:RATED_CHARS])
    if len(words) < 50 or sum(map(_COMMON.__contains__, words)) < _ENGLISH_SHARE * len(words):
        return None
    return sum(map(word_list("english_words.txt").__contains__, words)) / len(words)


@cache
def word_list(name: str) -> frozenset[str]:
    """Read a list of words that stands beside this module."""
    lines = Path(__file__).with_name(name).read_text("utf-8").splitlines()
    return frozenset(word for line in lines if not line.startswith("#") for word in line.split())
