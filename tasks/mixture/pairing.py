"""Which pieces of low and of high authority are about the same subject.

The same words lead both, and the rest of their words agrees as well. Pieces that hold one text are no pair, nor are two
parts of one work. Precision comes before number. Only the closest `MOST_NEIGHBOURS` of each piece are looked at.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from storage.shingles import ordered_shingles
from tasks.mixture.subjects import COMMON_SHARE, Indices, Phrase, plain_counts, text_hash

WORDS_COMPARED = 80
MOST_PIECES = 12
"""Pieces of one band under one prompt."""
MOST_NEIGHBOURS = 32
LEADING, FIRST = 12, 8
"""So many words lead a piece, and among the first of them must be its subject."""
NAMING_AGREEMENT, LEAST_AGREEMENT = 0.05, 0.018
"""The cosine without the two words that add most to it: between two pieces that name a subject, and between others that
join it. Copper and zinc lead an experiment and a leaflet on a disease, which share nothing else."""
EVERYBODYS = 1 << 40
"""The frequency of a word that is common beyond the candidates."""
MOST_COPIED = 0.006
"""Pieces that share more of their runs of five words hold one text in two places, such as the paragraphs that all
leaflets of one office share."""

LEAST_NAMED = 7
"""So often must two pieces together name their subject."""

_ADJECTIVE = re.compile(r"(?:al|ic|ive|ous|ful|able|ible|ary|ish|est|ly|ing|ed)$")
"""Such words name no subject, though some are nouns."""


@dataclass(frozen=True)
class Words:
    """The words of one candidate piece: how often each occurs, which phrases are repeated and which words are names."""

    counts: dict[str, int]
    phrases: dict[Phrase, int]
    names: frozenset[str]
    runs: npt.NDArray[np.uint32]
    """Hashes of the runs of five words."""

    @classmethod
    def of(cls, text: str) -> Words:
        """Take the most frequent words of a text."""
        counts, phrases = plain_counts(text)
        kept = dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:WORDS_COMPARED])
        capital = Counter(word.lower() for word in re.findall(r"\b[A-Z][^\W\d_]+", text))
        names = frozenset(word for word, count in kept.items() if capital[word] >= 0.8 * count)
        return cls(kept, phrases, names, np.unique(ordered_shingles([text])[0].astype(np.uint32)))

    def copies(self, other: Words) -> bool:
        """Tell whether two pieces hold some text in common."""
        shared = len(np.intersect1d(self.runs, other.runs, assume_unique=True))
        return shared > MOST_COPIED * min(len(self.runs), len(other.runs))

    def weights(self, frequency: Mapping[str, int], pieces: int) -> dict[str, float]:
        """Weigh each word by how often it occurs and how rare it is."""
        return {w: (1 + math.log(n)) * math.log(1 + pieces / frequency[w]) for w, n in self.counts.items()}


@dataclass(frozen=True)
class Conflict:
    """Pieces of low and high authority about one subject, as places among the candidates."""

    subject: str
    low: tuple[int, ...]
    high: tuple[int, ...]


def pair_pieces(
    words: Sequence[Words], bands: Indices, groups: Indices, common: frozenset[int] = frozenset()
) -> list[Conflict]:
    """Pair candidates of low and high authority that are about the same; each piece has one subject.

    What a piece is about is told by the words that it repeats and that few pieces have. Two pieces are a pair if at
    least two of these lead both, one of them may name a subject, and the other words agree as well.

    Args:
        words: The words of each candidate.
        bands: Band of each.
        groups: Group of related documents, such as parts of one work, to which each belongs.
        common: Hashes of words that many pieces name, candidates or not.
    """
    frequency = Counter(word for piece in words for word in piece.counts)
    for word in [word for word in frequency if text_hash(word) in common]:
        frequency[word] = EVERYBODYS
    weights = [piece.weights(frequency, len(words)) for piece in words]
    leading = [_leading(piece, weight, frequency, len(words)) for piece, weight in zip(words, weights, strict=True)]
    leaders = _matrix([dict.fromkeys(some, 1.0) for some in leading])
    directions = [_direction(weight, frequency, len(words)) for weight in weights]
    vectors = _matrix(directions)
    low, high = np.flatnonzero(bands == 0), np.flatnonzero(bands == 2)
    found: list[tuple[float, int, int, list[str]]] = []
    for start in range(0, len(low), 500):
        rows = low[start : start + 500]
        close = (vectors[rows] @ vectors[high].T).multiply((leaders[rows] @ leaders[high].T) >= 2).tocsr()
        for row, one in enumerate(rows.tolist()):
            cosines = close.data[close.indptr[row] : close.indptr[row + 1]]
            others = high[close.indices[close.indptr[row] : close.indptr[row + 1]]]
            fitting = np.flatnonzero((cosines >= LEAST_AGREEMENT) & (groups[others] != groups[one]))
            order = fitting[np.lexsort((others[fitting], -cosines[fitting]))][:MOST_NEIGHBOURS]
            for other in others[order].tolist():
                agreement = _agreement(directions[one], directions[other])
                names = _subjects(words, leading, one, other) if agreement >= LEAST_AGREEMENT else []
                if names and not words[one].copies(words[other]):
                    found.append((-agreement, one, other, names))
    return _grouped(sorted(found), words)


def _leading(piece: Words, weights: Mapping[str, float], frequency: Mapping[str, int], pieces: int) -> list[str]:
    """Return the words that say most about a piece, the best first."""
    most = max(4, round(COMMON_SHARE * pieces))
    repeated = [word for word, count in piece.counts.items() if count > 1 and frequency[word] <= most]
    return sorted(repeated, key=lambda word: (-weights[word], word))[:LEADING]


def _direction(weights: Mapping[str, float], frequency: Mapping[str, int], pieces: int) -> dict[str, float]:
    """Return the words that a piece may share with others, as a vector of length 1."""
    most = max(4, round(0.1 * pieces))
    kept = {word: weight for word, weight in weights.items() if frequency[word] <= most}
    norm = math.sqrt(sum(weight * weight for weight in kept.values()))
    return {word: weight / norm for word, weight in kept.items()}


def _matrix(rows: Sequence[Mapping[str, float]]) -> csr_matrix:
    """Return one row a piece and one column a word."""
    columns = {word: number for number, word in enumerate(sorted({word for row in rows for word in row}))}
    ends = np.cumsum([0, *map(len, rows)])
    places = [columns[word] for row in rows for word in row]
    return csr_matrix(([value for row in rows for value in row.values()], places, ends), (len(rows), len(columns)))


def _agreement(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    """Return the cosine of two pieces without the two words that add most to it."""
    return sum(sorted(one[word] * other[word] for word in one.keys() & other.keys())[:-2])


def _subjects(words: Sequence[Words], leading: Sequence[list[str]], one: int, other: int) -> list[str]:
    """Return the words by which both of two pieces may be asked for; none if less than two lead both."""
    shared = [word for word in leading[one] if word in leading[other]]
    if len({word[:4] for word in shared}) < 2:  # tax and taxes are one
        return []
    phrases = words[one].phrases.keys() & words[other].phrases.keys()
    in_phrases = {word for phrase in phrases if {*phrase} <= {*shared} for word in phrase}
    return [
        word
        for word in shared
        if words[one].counts[word] + words[other].counts[word] >= LEAST_NAMED
        and max(leading[one].index(word), leading[other].index(word)) < FIRST
        and (word in in_phrases or (not in_phrases and not _ADJECTIVE.search(word)))
    ]


def _grouped(found: list[tuple[float, int, int, list[str]]], words: Sequence[Words]) -> list[Conflict]:
    """Put pieces under subjects: those that tie most together first, and under each the closest pairs first."""
    ties: Counter[str] = Counter()
    of_subject: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    closest: dict[str, float] = {}
    for agreement, one, other, names in found:
        for name in names:
            closest.setdefault(name, -agreement)
            ties[name] -= round(1e6 * agreement)  # whole numbers, so that the sum depends on no order
            of_subject[name].append((one, other))
    taken: set[int] = set()
    conflicts = []
    for name in sorted(ties, key=lambda name: (-ties[name], name)):
        if closest[name] < NAMING_AGREEMENT:
            continue
        low, high = set[int](), set[int]()
        for one, other in of_subject[name]:
            if not {one, other} & (taken - low - high) and len(low | {one}) <= MOST_PIECES >= len(high | {other}):
                low.add(one)
                high.add(other)
                taken |= {one, other}
        if low:
            members = [words[piece] for piece in sorted(low | high)]
            conflicts.append(Conflict(_shown(name, members), tuple(sorted(low)), tuple(sorted(high))))
    return conflicts


def _shown(name: str, members: Sequence[Words]) -> str:
    """Spell a subject: as the phrase that most of its pieces repeat, with the capitals of a name."""
    phrases = Counter(phrase for piece in members for phrase in piece.phrases if name in phrase)
    best = min(phrases, key=lambda phrase: (-phrases[phrase], phrase), default=None)
    chosen = best if best and 2 * phrases[best] > len(members) else (name,)
    return " ".join(
        w.capitalize() if all(w in piece.names for piece in members if w in piece.counts) else w for w in chosen
    )
