"""What a piece is about, told by the words and phrases (two words side by side) that it repeats.

Pieces of low and of high authority that share one are candidates for a pair; only their texts are read a second time,
by `tasks.mixture.pairing`. Memory does not grow with the texts: a piece leaves at most `KEYS_PER_PIECE` hashes, and at
most `MOST_CANDIDATES` pieces are compared.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, pairwise
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from tasks.mixture.pages import word_list
from tasks.mixture.pieces import Outline

KEYS_PER_PIECE = 10
SHORTEST_TEXT = 600
"""Characters. How often a shorter text repeats a word says nothing, so it is paired by its title alone."""
COMMON_SHARE = 0.05
"""A key that more than this share of the pieces name says nothing about a subject."""
MOST_CANDIDATES = 30_000
LEAST_MENTIONS = 3
"""So often must a piece name its subject."""

Indices = npt.NDArray[np.int64]
Phrase = tuple[str, str]

_WORD = re.compile(r"[^\W\d_]+")
STOP_WORDS = word_list("stop_words.txt")


def plain_counts(text: str) -> tuple[Counter[str], dict[Phrase, int]]:
    """Count the words that can carry a subject, and the phrases of them that are repeated."""
    words = _WORD.findall(text.lower())
    counts = Counter(words)
    for word in [word for word in counts if len(word) < 3 or word in STOP_WORDS]:
        del counts[word]
    repeated = {word for word, count in counts.items() if count > 1}
    both = (pair for pair in pairwise(words) if pair[0] in repeated and pair[1] in repeated and pair[0] != pair[1])
    phrases = Counter(both)
    return counts, {phrase: count for phrase, count in phrases.items() if count > 1}


def text_hash(text: str) -> int:
    """Return the number that stands for a title, a subject or a key."""
    return xxh3_64_intdigest(text.encode())


@lru_cache(4096)
def _mentions(subject: str) -> re.Pattern[str]:
    words = r"[\W_]+".join(map(re.escape, re.findall(r"[^\W_]+", subject.lower())))
    return re.compile(rf"{words}s?(?!\w)" if words else r"(?!)")  # begins with letters, which are found fast


def keeps_to(subject: str, text: str) -> bool:
    """Tell whether a piece of a document that was found by a subject names it again and again."""
    lowered = f" {text.lower()}"
    found = (1 for match in _mentions(subject).finditer(lowered) if not lowered[match.start() - 1].isalnum())
    return sum(islice(found, LEAST_MENTIONS)) == LEAST_MENTIONS


def key_hashes(text: str) -> list[int]:
    """Return the hashes of the words and phrases that a piece repeats most, at most `KEYS_PER_PIECE`."""
    counts, phrases = plain_counts(text)
    found = [(3.0 * count, " ".join(phrase)) for phrase, count in phrases.items()]
    found += [(float(count), word) for word, count in counts.items() if count > 2]
    found.sort(key=lambda item: (-item[0], item[1]))
    return [text_hash(key) for _, key in found[:KEYS_PER_PIECE]]


@dataclass(frozen=True)
class Keys:
    """Hashes of what pieces are about: the document's row, the piece's number and the hash, one entry a key."""

    documents: npt.NDArray[np.int64]
    parts: npt.NDArray[np.int64]
    hashes: npt.NDArray[np.uint64]

    @classmethod
    def of(cls, found: Sequence[tuple[int, int, int]]) -> Self:
        """Make them of rows, numbers and hashes."""
        rows, parts, hashes = zip(*found, strict=True) if found else ((), (), ())
        return cls(np.array(rows, np.int64), np.array(parts, np.int64), np.array(hashes, np.uint64))

    @classmethod
    def joined(cls, keys: Sequence[tuple[Self, int]]) -> Self:
        """Put those of shards one after another, each with the row at which its shard begins."""
        return cls(
            np.concatenate([np.zeros(0, np.int64), *(some.documents + start for some, start in keys)]),
            np.concatenate([np.zeros(0, np.int64), *(some.parts for some, _ in keys)]),
            np.concatenate([np.zeros(0, np.uint64), *(some.hashes for some, _ in keys)]),
        )


def keys_of(outlines: Sequence[Outline]) -> Keys:
    """Name what the pieces of a shard's documents are about."""
    return Keys.of(
        [
            (row, part, key)
            for row, outline in enumerate(outlines)
            for part in outline.parts
            if len(outline.pieces[part]) >= SHORTEST_TEXT
            for key in key_hashes(outline.pieces[part])
        ]
    )


def asked_of(subjects: Sequence[Any], outlines: Sequence[Outline]) -> list[tuple[int, int, str]]:
    """List the pieces that keep to the subject for which their archive was asked: row, piece, subject."""
    return [
        (row, part, subject)
        for row, (subject, outline) in enumerate(zip(subjects, outlines, strict=True))
        if isinstance(subject, str)
        for part in outline.parts
        if keeps_to(subject, outline.pieces[part])
    ]


def find_candidates(
    pieces: Indices, keys: npt.NDArray[np.uint64], bands: npt.NDArray[np.int64]
) -> tuple[Indices, frozenset[int]]:
    """Return the pieces of low and high authority that share a key across the bands, and the keys that all name.

    Args:
        pieces: The piece that names each key, ascending.
        keys: The keys.
        bands: Band of each piece: 0 low, 2 high.
    """
    known, codes = np.unique(keys, return_inverse=True)
    low, high = (np.bincount(codes[bands[pieces] == band], minlength=len(known)) for band in (0, 2))
    rare = low + high <= max(8, round(COMMON_SHARE * len(np.unique(pieces))))
    shared = ((low > 0) & (high > 0) & rare)[codes] & (bands[pieces] != 1)
    strength = np.bincount(pieces[shared], minlength=len(bands))
    found = np.flatnonzero(strength)
    strongest = found[np.argsort(-strength[found], kind="stable")[:MOST_CANDIDATES]]
    return np.sort(strongest), frozenset(known[~rare].tolist())
