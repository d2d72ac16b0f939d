"""The text as it is scored and trained on: scoring reads what `clean_text` returns.

The raw store keeps texts as their archive sent them; scoring and the mixture clean what they read. Cleaning is
idempotent. Only the standard library is used.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import cache

LONGEST_MARK_RUN = 30
"""Combining marks in a row that any script needs, with room to spare (the bound of UAX #15, Stream-Safe Text)."""

LETTER = "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f"
"""Latin letters, spelt out: classes such as ``\\w`` mean different things to different regex engines."""


@dataclass(frozen=True)
class Step:
    """One replacement of the cleaning, in the regex dialect that Python and Rust share."""

    pattern: str
    replacement: str
    needles: tuple[str, ...]
    """A text that holds none of these is left as it is; most texts are, and a search for them costs next to nothing."""


_BROKEN_WORD = Step(rf"([{LETTER}])- ?\n ?([{LETTER}])", "${1}${2}", ("-\n", "- \n"))

STEPS: tuple[Step, ...] = (
    Step(r"\r\n?", "\n", ("\r",)),
    # Two steps, since a pattern that matches every single blank is twenty times slower than a literal pair.
    Step("[\t\u00a0]", " ", ("\t", "\u00a0")),
    Step("  +", " ", ("  ",)),
    # Scans end a broken line with "-\n" or "- \n". A match eats the letters at both its ends, so a chain of
    # one-letter pieces ("a-\nb-\nc") needs the second round.
    _BROKEN_WORD,
    _BROKEN_WORD,
)
"""What follows NFC, in order."""

_PYTHON_STEPS = tuple(
    (step.needles, re.compile(step.pattern), re.sub(r"\$\{(\d)\}", r"\\\1", step.replacement)) for step in STEPS
)


def clean_text(text: str) -> str:
    r"""Return `text` in NFC, with ``\n`` line ends, single blanks and no words broken over two lines."""
    text = compose(text)
    for needles, pattern, replacement in _PYTHON_STEPS:
        for needle in needles:  # `any` over a generator takes longer than the search
            if needle in text:
                text = pattern.sub(replacement, text)
                break
    return text


def compose(text: str) -> str:
    """Return `text` in Unicode normal form C.

    A text with more than `LONGEST_MARK_RUN` combining marks in a row is returned as it is: nobody writes so,
    and CPython sorts such a run in quadratic time (32,000 marks: 0.9 s, four times that for twice as many).
    """
    if text.isascii() or unicodedata.is_normalized("NFC", text) or _long_mark_run().search(text):
        return text
    return unicodedata.normalize("NFC", text)


@cache
def _long_mark_run() -> re.Pattern[str]:
    marks = "".join(re.escape(chr(point)) for point in range(0x300, 0x20000) if unicodedata.combining(chr(point)))
    return re.compile(f"[{marks}]{{{LONGEST_MARK_RUN + 1}}}")


def grapheme_start(text: str, at: int, lowest: int) -> int:
    """Return the last place from `lowest` to `at` where a cut splits no character that a reader sees as one.

    A letter keeps its accents, an emoji its parts, a flag both its letters. Without such a place it is `at`.
    """
    return next((place for place in range(at, lowest - 1, -1) if not _continues(text, place)), at)


def _continues(text: str, at: int) -> bool:
    """Tell whether the character at a place belongs to the one before it."""
    if not 0 < at < len(text):
        return False
    before, here = text[at - 1], text[at]
    if here.isascii():
        return here == "\n" and before == "\r"
    if before == "\u200d" or here == "\u200d" or unicodedata.category(here) in ("Mn", "Me", "Mc"):
        return True
    if "\U0001f3fb" <= here <= "\U0001f3ff" or "\U000e0020" <= here <= "\U000e007f" or "\u1160" <= here <= "\u11ff":
        return True
    if not "\U0001f1e6" <= here <= "\U0001f1ff":
        return False
    first = at
    while first and "\U0001f1e6" <= text[first - 1] <= "\U0001f1ff":
        first -= 1
    return (at - first) % 2 == 1
