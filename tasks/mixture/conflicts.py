"""Find the prompts that documents of low and of high authority both answer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.mixture.corpus import Corpus, read_texts
from tasks.mixture.pairing import Words, pair_pieces
from tasks.mixture.parameters import MixtureParameters
from tasks.mixture.pieces import outline_samples
from tasks.mixture.shards import ShardPair
from tasks.mixture.sides import both_voices
from tasks.mixture.subjects import Keys, find_candidates, text_hash

Indices = npt.NDArray[np.int64]
MOST_PIECES = 64
"""The bound of the parameter `max_pieces`."""


@dataclass(frozen=True)
class Conflicts:
    """Which pieces answer a prompt that pieces of low and high authority both answer, one entry a piece.

    Attributes:
        numbers: Number of the prompt, -1 for none.
        names: Name of each numbered prompt; a hash of what it asks about.
        subjects: What pieces are asked about that are not asked by their document's title.
    """

    numbers: Indices
    names: list[str]
    subjects: dict[int, str]


def find_conflicts(corpus: Corpus, owners: Indices, parts: Indices, groups: Indices) -> Conflicts:
    """Group pieces by what they are asked about: equal titles, subjects asked of archives, texts that agree.

    Args:
        corpus: The documents.
        owners: The document of each piece.
        parts: The number of each piece in its document.
        groups: The group of related documents of each piece; those alone, such as the parts of a book, are one voice.
    """
    documents = corpus.documents
    bands = documents.bands[owners]
    asked = np.where(parts == 0, documents.titles[owners], np.uint64(0))
    if corpus.parameters.prompts != "neutral":
        asked[:] = 0
    free = np.flatnonzero(_numbered(asked, bands, groups)[0] < 0)
    found, known = _pieces_of(documents.asked, owners, parts, free)
    asked[found] = documents.asked.hashes[known]
    subjects = {piece: documents.asked_names[int(asked[piece])] for piece in found.tolist()}
    free = np.flatnonzero(_numbered(asked, bands, groups)[0] < 0)
    shared = _shared_subjects(corpus, owners, parts, groups, free)
    for piece, subject in shared.items():
        asked[piece] = text_hash(subject)
    numbers, keys = _numbered(asked, bands, groups)
    subjects = {piece: name for piece, name in (subjects | shared).items() if numbers[piece] >= 0}
    return Conflicts(numbers, [f"{key:016x}" for key in keys.tolist()], subjects)


def _numbered(asked: npt.NDArray[np.uint64], bands: Indices, groups: Indices) -> tuple[Indices, npt.NDArray[np.uint64]]:
    """Number what both voices are asked about; everything else gets -1."""
    codes = np.where(asked == 0, -1, np.unique(asked, return_inverse=True)[1]).astype(np.int64)
    named = np.flatnonzero(both_voices(codes, bands, groups))
    numbers = np.full(len(asked), -1, np.int64)
    keys, numbers[named] = np.unique(asked[named], return_inverse=True)
    return numbers, keys


def _shared_subjects(corpus: Corpus, owners: Indices, parts: Indices, groups: Indices, free: Indices) -> dict[int, str]:
    """Name what pieces of low and of high authority share, by piece."""
    documents, keys = corpus.documents, corpus.documents.keys
    pieces, known = _pieces_of(keys, owners, parts, free)
    places = np.searchsorted(free, pieces)
    candidates, common = find_candidates(places, keys.hashes[known], documents.bands[owners[free]])
    chosen = free[candidates]
    words = corpus.read_again(read_words, owners[chosen], parts[chosen])
    found = pair_pieces(words, documents.bands[owners[chosen]], groups[chosen], common)
    return {int(chosen[place]): conflict.subject for conflict in found for place in (*conflict.low, *conflict.high)}


def _pieces_of(keys: Keys, owners: Indices, parts: Indices, free: Indices) -> tuple[Indices, npt.NDArray[np.bool_]]:
    """Return the free piece that each key belongs to, and which keys belong to one."""
    width = MOST_PIECES + 1
    named = owners[free] * width + parts[free]  # ascending, as owners and parts are
    wanted = keys.documents * width + keys.parts
    known = np.isin(wanted, named)
    return free[np.searchsorted(named, wanted[known])], known


def read_words(pair: ShardPair, rows: Indices, parts: Indices, p: MixtureParameters) -> list[Words]:
    """Read the words of some pieces of a shard, given by their document's row and their number."""
    unique, places = np.unique(rows, return_inverse=True)
    pieces = [outline_samples("", text, p.piece_chars, p.max_pieces).pieces for text in read_texts(pair, unique, p)]
    return [Words.of(pieces[place][part]) for place, part in zip(places.tolist(), parts.tolist(), strict=True)]
