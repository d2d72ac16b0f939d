"""The text as it is scored and trained on: scoring v1 reads exactly what `clean_text` returns.

The raw store keeps texts as their archive sent them; scoring and the mixture clean what they read. Cleaning is
idempotent. Only the standard library is used.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache

LONGEST_MARK_RUN = 30
"""Combining marks in a row that any script needs, with room to spare (the bound of UAX #15, Stream-Safe Text)."""

LETTER = "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f"
"""Latin letters, spelt out: classes such as ``\\w`` mean different things to different regex engines."""

STEPS: tuple[tuple[str, str], ...] = (
    (r"\r\n?", "\n"),
    # Two steps, since a pattern that matches every single blank is twenty times slower than a literal pair.
    ("[\t\u00a0]", " "),
    ("  +", " "),
    # Scans end a broken line with "-\n" or "- \n". A match eats the letters at both its ends, so a chain of
    # one-letter pieces ("a-\nb-\nc") needs the second round.
    (rf"([{LETTER}])- ?\n ?([{LETTER}])", "${1}${2}"),
    (rf"([{LETTER}])- ?\n ?([{LETTER}])", "${1}${2}"),
)
"""Pattern and replacement of each step after NFC, in the regex dialect that Python and Rust share."""

_PYTHON_STEPS = tuple((re.compile(pattern), re.sub(r"\$\{(\d)\}", r"\\\1", new)) for pattern, new in STEPS)


def clean_text(text: str) -> str:
    r"""Return `text` in NFC, with ``\n`` line ends, single blanks and no words broken over two lines."""
    text = compose(text)
    for pattern, replacement in _PYTHON_STEPS:
        text = pattern.sub(replacement, text)
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
