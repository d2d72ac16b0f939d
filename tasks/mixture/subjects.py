"""What a piece is about, and which pieces of low and of high authority are about the same subject.

First every piece names the words and phrases (two words side by side) that it repeats. Pieces of both bands that share
one are candidates; only their texts are read a second time, and only pieces that repeat one phrase, and whose other
words agree as well, become a conflict. Precision comes before number: of real texts that shared two words apart, about
half were on one subject, and two parts of one work are one voice. Memory does not grow with the texts: a piece
leaves at most `KEYS_PER_PIECE` hashes, and at most `MOST_CANDIDATES` pieces are compared.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, pairwise
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix
from xxhash import xxh3_64_intdigest

from tasks.mixture.pages import word_list
from tasks.mixture.pieces import Outline

KEYS_PER_PIECE = 10
SHORTEST_TEXT = 600
"""Characters. How often a shorter text repeats a word says nothing, so it is paired by its title alone."""
COMMON_SHARE = 0.03
"""A key that more than this share of the pieces name says nothing about a subject."""
WORDS_COMPARED = 80
MOST_CANDIDATES = 30_000
MOST_PIECES = 8
"""Pieces of one band under one prompt."""
LEAST_COSINE = 0.14
LEAST_MENTIONS = 3
"""So often must a piece name the subject for which its archive was asked."""
LEAST_REPEATED = 5
"""So often must two pieces together name the phrase that they share."""
LEAST_SUBJECT = 0.05
"""What the words of the phrase must contribute to the cosine."""

Indices = npt.NDArray[np.int64]
Phrase = tuple[str, str]

_WORD = re.compile(r"[^\W\d_]+")
STOP_WORDS = word_list("stop_words.txt")


def _plain_counts(text: str) -> tuple[Counter[str], dict[Phrase, int]]:
    """Count the words that can carry a subject, and the phrases of them that are repeated."""
    words = _WORD.findall(text.lower())
    counts = Counter(words)
    for word in [word for word in counts if len(word) < 3 or word in STOP_WORDS]:
        del counts[word]
    repeated = {word for word, count in counts.items() if count > 1}
    phrases = Counter(pair for pair in pairwise(words) if pair[0] in repeated and pair[1] in repeated)
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
    counts, phrases = _plain_counts(text)
    found = [(3.0 * count, " ".join(phrase)) for phrase, count in phrases.items()]
    found += [(float(count), word) for word, count in counts.items() if count > 2 and len(word) > 3]
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


@dataclass(frozen=True)
class Words:
    """The words of one candidate piece: how often each occurs, which phrases are repeated and which words are names."""

    counts: dict[str, int]
    phrases: dict[Phrase, int]
    names: frozenset[str]

    @classmethod
    def of(cls, text: str) -> Words:
        """Take the most frequent words of a text."""
        counts, phrases = _plain_counts(text)
        kept = dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:WORDS_COMPARED])
        capital = Counter(word.lower() for word in re.findall(r"\b[A-Z][^\W\d_]+", text))
        names = frozenset(word for word, count in kept.items() if capital[word] >= 0.8 * count)
        return cls(kept, phrases, names)

    def share(self, other: Words) -> list[Phrase]:
        """Return the phrases that two pieces repeat."""
        both = self.phrases.keys() & other.phrases.keys()
        return [phrase for phrase in both if self.phrases[phrase] + other.phrases[phrase] >= LEAST_REPEATED]

    def repeat(self, subject: str) -> bool:
        """Tell whether the piece repeats the phrase that is a subject."""
        return tuple(subject.lower().split()) in self.phrases


@dataclass(frozen=True)
class Conflict:
    """Pieces of low and high authority about one subject, as places among the candidates."""

    subject: str
    low: tuple[int, ...]
    high: tuple[int, ...]


def find_candidates(pieces: Indices, keys: npt.NDArray[np.uint64], bands: npt.NDArray[np.int64]) -> Indices:
    """Return the pieces of low and high authority that share a word or a phrase across the bands.

    Args:
        pieces: The piece that names each key, ascending.
        keys: The keys.
        bands: Band of each piece: 0 low, 2 high.
    """
    _, codes = np.unique(keys, return_inverse=True)
    low, high = (np.bincount(codes[bands[pieces] == band], minlength=codes.max(initial=-1) + 1) for band in (0, 2))
    most = max(8, round(COMMON_SHARE * len(np.unique(pieces))))
    shared = ((low > 0) & (high > 0) & (low + high <= most))[codes] & (bands[pieces] != 1)
    strength = np.bincount(pieces[shared], minlength=len(bands))
    found = np.flatnonzero(strength >= 1)
    strongest = found[np.argsort(-strength[found], kind="stable")[:MOST_CANDIDATES]]
    return np.sort(strongest)


def pair_pieces(words: Sequence[Words], bands: Indices, groups: Indices) -> list[Conflict]:
    """Pair candidates of low and high authority whose words agree, the closest first; each piece has one subject.

    Args:
        words: The words of each candidate.
        bands: Band of each.
        groups: Group of related documents, such as parts of one work, to which each belongs.
    """
    frequency = Counter(word for piece in words for word in piece.counts)
    most = max(8, round(0.1 * len(words)))
    vocabulary = {word: n for n, word in enumerate(sorted(w for w, f in frequency.items() if 2 <= f <= most))}
    by_number = list(vocabulary)
    vectors = _vectors(words, vocabulary, frequency)
    low, high = np.flatnonzero(bands == 0), np.flatnonzero(bands == 2)
    found: list[tuple[float, str, int, int]] = []
    for start in range(0, len(low), 500):
        block = (vectors[low[start : start + 500]] @ vectors[high].T).tocoo()
        close = block.data >= LEAST_COSINE
        for row, column, cosine in zip(block.row[close], block.col[close], block.data[close], strict=True):
            one, other = int(low[start + row]), int(high[column])
            if groups[one] == groups[other] or not (phrases := words[one].share(words[other])):
                continue
            shared = vectors[one].multiply(vectors[other]).tocsr()
            weight = {by_number[number]: value for number, value in zip(shared.indices, shared.data, strict=True)}
            if subject := _subject(phrases, weight, words[one].names & words[other].names):
                found.append((-float(cosine), subject, one, other))
    return _grouped(sorted(found), words)


def _vectors(words: Sequence[Words], vocabulary: dict[str, int], frequency: Counter[str]) -> csr_matrix:
    """Return one row a piece, of length 1: words weighted by how often they occur and how rare they are."""
    rows, columns, values = [], [], []
    for row, piece in enumerate(words):
        for word, count in piece.counts.items():
            if word in vocabulary:
                rows.append(row)
                columns.append(vocabulary[word])
                values.append((1 + np.log(count)) * np.log(1 + len(words) / frequency[word]))
    matrix = csr_matrix((values, (rows, columns)), shape=(len(words), len(vocabulary)), dtype=np.float64)
    norms = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    matrix.data /= np.repeat(np.maximum(norms, 1e-12), np.diff(matrix.indptr))
    return matrix


def _subject(phrases: Sequence[Phrase], weight: Mapping[str, float], names: frozenset[str]) -> str | None:
    """Name the weightiest phrase that two pieces share; None if it weighs too little."""
    most, phrase = max((sum(weight.get(word, 0.0) for word in phrase), phrase) for phrase in phrases)
    return " ".join(word.capitalize() if word in names else word for word in phrase) if most >= LEAST_SUBJECT else None


def _grouped(found: list[tuple[float, str, int, int]], words: Sequence[Words]) -> list[Conflict]:
    """Put pieces under subjects, the closest pairs first.

    A piece stays under the first subject that it gets; one that is close to it joins it there if it repeats that
    subject.
    """
    subject_of: dict[int, str] = {}
    members: dict[str, tuple[list[int], list[int]]] = {}
    for _, shared, one, other in found:
        subject = subject_of.get(one) or subject_of.get(other) or shared
        sides = members.setdefault(subject, ([], []))
        for piece, side in zip((one, other), sides, strict=True):
            if (
                piece not in subject_of
                and len(side) < MOST_PIECES
                and (subject == shared or words[piece].repeat(subject))
            ):
                subject_of[piece] = subject
                side.append(piece)
    return [
        Conflict(subject, tuple(sorted(low)), tuple(sorted(high)))
        for subject, (low, high) in sorted(members.items())
        if low and high
    ]
