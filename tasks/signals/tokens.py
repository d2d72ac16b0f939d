"""Words, numbers and marks of texts as arrays: what scoring v2 reads instead of characters.

`tokenise` walks over the bytes of many texts at once with numpy; `tokenise_one` says the same with a regular
expression. A word is known by a 64-bit hash of its first eight and last four lower-case bytes and its length.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Hashes = NDArray[np.uint64]
Integers = NDArray[np.int64]

WORD, NUMBER, OTHER = 1, 2, 3
"""Kinds of tokens; every mark of punctuation that counts is a token of its own."""
MARKS = '.!?;:"()[]%\n'
JOINS = ".,:/-"
"""These stay inside a number between two digits, as an apostrophe does inside a word between two letters."""
HEAD, STRIDE, SAMPLE, MOST = 4000, 30_000, 2000, 1_000_000
"""Characters that are read of a text: its head, and of a long one a sample at every stride, up to a bound.

What is read does not depend on what is added behind it, so that a text cannot be pushed out of its own score.
"""

PLAIN = {
    "\u201c": '"',
    "\u201d": '"',
    "\u2018": "'",
    "\u2019": "'",
    "\u2013": "-",
    "\u2014": " ",
    "\u00b0": " deg",
    "\u017f": "s",
}
"""Signs that are read as their plain ones."""

_FACTORS = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F), np.uint64(0x165667B19E3779F9))
_FIRST, _LAST = 8, 4
_FIRST_MASKS = np.array([(1 << 8 * length) - 1 for length in range(_FIRST + 1)], np.uint64)
_LAST_SHIFTS = np.array([8 * max(0, length - _LAST) for length in range(_FIRST + 1)], np.uint64)
"""By the length of a token: what masks its first eight bytes, and what shifts them to its last four."""


@dataclass(frozen=True)
class Tokens:
    """Arrays with one entry per token, in the order of the texts."""

    text: NDArray[np.int32]
    """Index of the text."""
    kind: NDArray[np.uint8]
    word: Hashes
    """Hash of the token in lower case."""
    ending: NDArray[np.uint32]
    """Its last four lower-case bytes, little-endian."""
    capital: Bools
    length: NDArray[np.int32]
    """In bytes."""
    sign: NDArray[np.uint8]
    """The byte of a mark of punctuation; 0 for words and numbers."""
    point: Bools
    """Whether a number holds a point between two digits."""
    colon: Bools
    glued: Bools
    """Whether nothing stands between it and the token before."""


_PLAIN = {ord(sign): plain for sign, plain in PLAIN.items()}


def read_part(text: str) -> str:
    """Return what is read of a text."""
    samples = (text[start : start + SAMPLE] for start in range(STRIDE, min(len(text), MOST), STRIDE))
    return "\n\n".join([text[:HEAD], *samples])


def plain_text(text: str) -> str:
    """Return what is read of one text, with its signs written plainly."""
    return read_part(text).translate(_PLAIN)


def token_starts(text: str) -> list[int]:
    """Return where in the plain text its tokens begin."""
    return [match.start() for match in _TOKEN.finditer(plain_text(text))]


def plain_texts(texts: pl.Series) -> pl.Series:
    """Return what is read of texts, with their signs written plainly."""
    long = (texts.str.len_bytes() > STRIDE).arg_true()
    parts = [read_part(text) for text in texts.gather(long)]
    texts = texts.str.head(HEAD).scatter(long, parts) if len(long) else texts.str.head(HEAD)
    rows = (texts.str.len_bytes() != texts.str.len_chars()).arg_true()
    if len(rows):
        texts = texts.scatter(rows, texts.gather(rows).str.replace_many(list(PLAIN), list(PLAIN.values())))
    return texts


def hash_word(word: bytes) -> int:
    """Return the hash of one word in lower case."""
    parts = (int.from_bytes(word[:_FIRST], "little"), int.from_bytes(word[-_LAST:], "little"), len(word))
    return sum(part * int(factor) for part, factor in zip(parts, _FACTORS, strict=True)) % 2**64


def _table(kinds: dict[str, int]) -> bytes:
    """Map bytes to kinds of tokens; the rest to none."""
    return bytes(next((kind for signs, kind in kinds.items() if chr(byte) in signs), 0) for byte in range(256))


_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ" + "".join(map(chr, range(128, 256)))
_KINDS = _table({_LETTERS: WORD, "0123456789": NUMBER, MARKS: OTHER})
_JOINS = _table({"'": WORD, JOINS: NUMBER})
_CLASSES = bytes(kind | join << 2 for kind, join in zip(_KINDS, _JOINS, strict=True))


def tokenise(texts: pl.Series) -> Tokens:
    """Split plain texts into tokens."""
    _, offsets, buffer = texts.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest()).buffers()
    bounds = np.frombuffer(offsets, np.int64)[: len(texts) + 1]
    data = np.frombuffer(buffer or b"", np.uint8)[bounds[0] : bounds[-1]]
    edges = bounds[1:-1] - bounds[0]
    edges = edges[(edges > 0) & (edges < len(data))]
    raw = data.tobytes()
    classes = np.frombuffer(raw.translate(_CLASSES), np.uint8)
    kinds, joined = classes & np.uint8(3), classes >> np.uint8(2)
    before, after = _neighbours(kinds, edges)
    joints = np.flatnonzero((joined != 0) & (before == joined) & (after == joined))
    kinds[joints] = before[joints + 1] = after[joints - 1] = joined[joints]
    alone = kinds == OTHER
    starts = np.flatnonzero((kinds != 0) & ((kinds != before) | alone))
    stops = np.flatnonzero((kinds != 0) & ((kinds != after) | alone)) + 1
    length = stops - starts
    word, ending = _hashes(raw.lower(), starts, stops, length)
    heads, kind = data[starts], kinds[starts]
    return Tokens(
        text=np.repeat(np.arange(len(texts), dtype=np.int32), np.diff(np.searchsorted(starts, bounds - bounds[0]))),
        kind=kind,
        word=word,
        ending=ending,
        capital=(heads >= 65) & (heads <= 90),
        length=length.astype(np.int32),
        sign=heads * (kind == OTHER),
        point=_holds(joints[data[joints] == ord(".")], starts),
        colon=_holds(joints[data[joints] == ord(":")], starts),
        glued=np.concatenate([np.zeros(min(1, len(starts)), np.bool_), starts[1:] == stops[:-1]]),
    )


def _hashes(lower: bytes, starts: Integers, stops: Integers, length: Integers) -> tuple[Hashes, NDArray[np.uint32]]:
    """Return the hash of every token and its last four bytes, read as numbers that begin at any byte."""
    padded = lower + bytes(_FIRST)
    eights = np.ndarray(len(lower), "<u8", padded, strides=(1,))
    fours = np.ndarray(len(lower), "<u4", padded, strides=(1,))
    first = eights.take(starts) & _FIRST_MASKS.take(length, mode="clip")
    ending = first >> _LAST_SHIFTS.take(length, mode="clip")
    long = np.flatnonzero(length > _FIRST)
    ending[long] = fours[stops[long] - _LAST]
    word: Hashes = first * _FACTORS[0] + ending * _FACTORS[1] + length.view(np.uint64) * _FACTORS[2]
    return word, ending.astype(np.uint32)


def _neighbours(kinds: NDArray[np.uint8], edges: Integers) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the kinds of the bytes before and after each one; at the edges of a text there are none."""
    before, after = np.zeros_like(kinds), np.zeros_like(kinds)
    before[1:], after[:-1] = kinds[:-1], kinds[1:]
    before[edges], after[edges - 1] = 0, 0
    return before, after


def _holds(places: Integers, starts: Integers) -> Bools:
    """Tell which tokens hold one of the places; every place is inside a token."""
    holds = np.zeros(len(starts), np.bool_)
    holds[np.searchsorted(starts, places, side="right") - 1] = True
    return holds


_LETTER = "[A-Za-z\u0080-\U0010ffff]"
_TOKEN = re.compile(rf"({_LETTER}+(?:'{_LETTER}+)*)|([0-9]+(?:[{JOINS}][0-9]+)*)|([{re.escape(MARKS)}])")


def tokenise_one(text: str) -> Tokens:
    """Split one text into tokens, as `tokenise` splits many."""
    matches = list(_TOKEN.finditer(plain_text(text)))
    found, ends = [(match.lastindex or 0, match.group()) for match in matches], [match.end() for match in matches]
    lower = [re.sub("[A-Z]+", lambda capitals: capitals.group().lower(), token).encode() for _, token in found]
    return Tokens(
        text=np.zeros(len(found), np.int32),
        kind=np.array([kind for kind, _ in found], np.uint8),
        word=np.array([hash_word(token) for token in lower], np.uint64),
        ending=np.array([int.from_bytes(token[-_LAST:], "little") for token in lower], np.uint32),
        capital=np.array(["A" <= token[0] <= "Z" for _, token in found], np.bool_),
        length=np.array([len(token) for token in lower], np.int32),
        sign=np.array([ord(token) if kind == OTHER else 0 for kind, token in found], np.uint8),
        point=np.array([kind == NUMBER and "." in token for kind, token in found], np.bool_),
        colon=np.array([kind == NUMBER and ":" in token for kind, token in found], np.bool_),
        glued=np.array(
            [place > 0 and match.start() == ends[place - 1] for place, match in enumerate(matches)], np.bool_
        ),
    )
