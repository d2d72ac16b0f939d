"""Fingerprints of texts: an exact hash of the words, and a MinHash signature of their 5-word shingles; near copies.

Everything up to the shingle hashes is integer arithmetic modulo 2^64 in numpy, the same on every platform;
rensa turns the shingle hashes into signatures. Words are runs of letters and digits; ASCII letters lose their
case, other letters keep theirs, punctuation and layout do not count. In scripts without blanks every character is a
word.

Signatures are banded 25 x 5: two documents of Jaccard similarity J share a band with probability 1 - (1 - J^5)^25
(J = 0.8: 0.9999).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import rensa

Bytes = npt.NDArray[np.uint8]
Hashes = npt.NDArray[np.uint64]
Offsets = npt.NDArray[np.int64]
Indices = npt.NDArray[np.int64]

SHINGLE_WORDS = 5
BANDS = 25
BAND_ROWS = 5
PERMUTATIONS = BANDS * BAND_ROWS
MINHASH_SEED = 42
BATCH_BYTES = 256 << 10
"""Text fingerprinted at a time; small enough that the working arrays stay in the cache."""

NEIGHBOURS = 3
COMPARED_SHINGLES = 20_000
"""Shingles by which two candidates are compared exactly, from the beginning of their texts."""

WITHOUT_BLANKS = (
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
"""Thai, Lao, Burmese, Khmer, kana and Chinese characters."""
_WORD_BASE = 0x9E3779B97F4A7C15
_UNDO_WORD_BASE = pow(_WORD_BASE, -1, 1 << 64)
_SHINGLE_BASE = np.uint64(0xD1B54A32D192ED03)
_MIX = np.uint64(0xFF51AFD7ED558CCD)
_SHIFT = np.uint64(33)
_FNV = np.uint64(0x100000001B3)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


_LETTERS = bytes(byte if byte >= 0x80 or chr(byte).isalnum() else 0 for byte in range(256)).lower()
"""A byte's lower-case letter or digit; bytes of other scripts are themselves, the rest 0."""


@dataclass(frozen=True)
class Fingerprints:
    """What is compared instead of texts, one row a document.

    Attributes:
        exact: (documents, 2) halves of a 128-bit hash of the words; zeros if it was not wanted.
        signatures: (documents, PERMUTATIONS) uint32 MinHash values; no columns if they were not wanted.
        comparable: Whether the document has at least one shingle; a shorter one has no meaningful signature.
    """

    exact: Hashes
    signatures: npt.NDArray[np.uint32]
    comparable: npt.NDArray[np.bool_]

    @classmethod
    def joined(cls, parts: list[Fingerprints]) -> Fingerprints:
        """Put the fingerprints of several batches behind one another."""
        parts = [part for part in parts if len(part.exact)]  # an empty one does not tell the width of signatures
        width = parts[0].signatures.shape[1] if parts else 0
        return cls(
            np.concatenate([np.zeros((0, 2), np.uint64), *(part.exact for part in parts)]),
            np.concatenate([np.zeros((0, width), np.uint32), *(part.signatures for part in parts)]),
            np.concatenate([np.zeros(0, np.bool_), *(part.comparable for part in parts)]),
        )


def fingerprint_texts(texts: pa.Array | pa.ChunkedArray, *, exact: bool = True, near: bool = True) -> Fingerprints:
    """Fingerprint a column of texts.

    Args:
        texts: A string column without nulls.
        exact: Compute the hash of the words.
        near: Compute signatures; without them no document is comparable.
    """
    chunks = texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts]
    parts = []
    for chunk in chunks:
        for raw, offsets in _batches(chunk):
            letters, documents = _fold(raw), len(offsets) - 1
            halves = _exact_hashes(letters, offsets) if exact else np.zeros((documents, 2), np.uint64)
            if near:
                hashes, rows = _shingle_hashes(letters, offsets)
                parts.append(Fingerprints(halves, _signatures(hashes, rows), np.diff(rows) > 0))
            else:
                parts.append(Fingerprints(halves, np.zeros((documents, 0), np.uint32), np.zeros(documents, np.bool_)))
    return Fingerprints.joined(parts)


def spaced(text: str) -> str:
    """Put blanks around every character of a script that writes no blanks between words."""
    return text if text.isascii() else re.sub(WITHOUT_BLANKS, r" \g<0> ", text)


def ordered_shingles(texts: list[str]) -> list[Hashes]:
    """Return the shingle hashes of each text in its order, of at most `COMPARED_SHINGLES` shingles."""
    found = []
    for raw, offsets in _batches(pa.array(list(map(spaced, texts)), pa.large_string())):
        hashes, rows = _shingle_hashes(_fold(raw), offsets)
        found += [hashes[start : min(end, start + COMPARED_SHINGLES)].copy() for start, end in pairwise(rows.tolist())]
    return found


def _batches(column: pa.Array) -> Iterator[tuple[Bytes, Offsets]]:
    """Yield runs of whole documents as (bytes, offsets into them)."""
    column = column.cast(pa.large_binary())
    if len(column) == 0:
        return
    _, offset_buffer, data_buffer = column.buffers()
    offsets = np.frombuffer(offset_buffer, np.int64)[column.offset : column.offset + len(column) + 1]
    data = np.frombuffer(data_buffer, np.uint8) if data_buffer is not None else np.zeros(0, np.uint8)
    first = 0
    while first < len(column):
        last = int(np.searchsorted(offsets, offsets[first] + BATCH_BYTES, side="right")) - 1
        last = min(max(last, first + 1), len(column))
        yield data[offsets[first] : offsets[last]], offsets[first : last + 1] - offsets[first]
        first = last


def _fold(raw: Bytes) -> Bytes:
    """Lower ASCII letters and set everything between words to 0."""
    letters = np.frombuffer(bytearray(raw.tobytes().translate(_LETTERS)), np.uint8)
    # General punctuation (U+2000 to U+203F: quotes, dashes, spaces) and Latin-1 signs are not letters.
    for lead, second, width in ((0xE2, 0x80, 3), (0xC2, None, 2)):
        at = np.flatnonzero(raw[: len(raw) - width + 1] == lead) if len(raw) >= width else np.zeros(0, np.int64)
        if second is not None:
            at = at[raw[at + 1] == second]
        for step in range(width):
            letters[at + step] = 0
    return letters


def _starts(mask: npt.NDArray[np.bool_], offsets: Offsets) -> npt.NDArray[np.bool_]:
    """Mark the first byte of every word; a word never runs across a document boundary."""
    before = np.zeros_like(mask)
    before[1:] = mask[:-1]
    heads = offsets[:-1]
    before[heads[heads < len(mask)]] = False
    result: npt.NDArray[np.bool_] = mask & ~before
    return result


def _exact_hashes(letters: Bytes, offsets: Offsets) -> Hashes:
    """Hash each document's words, joined by one separator.

    128-bit BLAKE2b, not XXH3: a forged collision would remove somebody's document.
    """
    mask = letters != 0
    keep = mask.copy()
    keep[1:] |= mask[:-1]
    places = np.flatnonzero(keep)
    bounds = np.searchsorted(places, offsets).tolist()
    content = letters[places].tobytes()
    digests = b"".join(
        blake2b(content[start:end].strip(b"\0"), digest_size=16).digest() for start, end in pairwise(bounds)
    )
    return np.frombuffer(digests, ">u8").astype(np.uint64).reshape(-1, 2)


def _powers(base: int, count: int) -> Hashes:
    """Return base^0 … base^(count-1) modulo 2^64."""
    powers = np.full(count, base, np.uint64)
    powers[:1] = 1
    return np.multiply.accumulate(powers)


def _power_tables(count: int) -> tuple[Hashes, Hashes]:
    """Return the powers of the base of words, and their inverses."""
    return _powers(_WORD_BASE, count), _powers(_UNDO_WORD_BASE, count)


_usual_tables = cache(_power_tables)


def _word_hashes(letters: Bytes, starts: Indices) -> Hashes:
    """Hash every word: the sum of its letters, each times the base to the power of its place in the word."""
    long = len(letters) > BATCH_BYTES  # a single document
    powers, undo = _power_tables(len(letters)) if long else _usual_tables(BATCH_BYTES)
    sums = np.zeros(len(letters) + 1, np.uint64)
    np.cumsum(np.multiply(letters, powers[: len(letters)], dtype=np.uint64), out=sums[1:])
    result: Hashes = np.diff(sums.take(starts), append=sums[-1:]) * undo.take(starts)  # as if each stood at place 0
    return result


def _shingle_hashes(letters: Bytes, offsets: Offsets) -> tuple[Hashes, Offsets]:
    """Hash every run of `SHINGLE_WORDS` words of one document; return hashes and each document's offsets."""
    rows = np.zeros(len(offsets), np.int64)
    starts = np.flatnonzero(_starts(letters != 0, offsets))
    runs = len(starts) - SHINGLE_WORDS + 1
    if runs < 1:
        return np.zeros(0, np.uint64), rows
    words = _mixed(_word_hashes(letters, starts))
    hashes = words[:runs]
    for step in range(1, SHINGLE_WORDS):
        hashes = hashes * _SHINGLE_BASE + words[step : step + runs]
    bounds = np.searchsorted(starts, offsets)
    whole = np.ones(len(words), np.bool_)
    for step in range(1, SHINGLE_WORDS):
        last = bounds[1:] - step
        whole[last[last >= bounds[:-1]]] = False
    np.cumsum(np.maximum(np.diff(bounds) - SHINGLE_WORDS + 1, 0), out=rows[1:])
    return _mixed(hashes[whole[:runs]]), rows


def _mixed(hashes: Hashes) -> Hashes:
    """Spread the bits of polynomial hashes."""
    hashes = (hashes ^ (hashes >> _SHIFT)) * _MIX
    result: Hashes = hashes ^ (hashes >> _SHIFT)
    return result


def _signatures(hashes: Hashes, rows: Offsets) -> npt.NDArray[np.uint32]:
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(
        hashes, rows.astype(np.uint64), PERMUTATIONS, MINHASH_SEED
    )
    return np.array(matrix.to_rows(), np.uint32).reshape(len(rows) - 1, PERMUTATIONS)


def bucket_pairs(values: npt.NDArray[np.unsignedinteger], band: int) -> Indices:
    """Find rows that hold the same values in one band.

    Inside a bucket each row is compared with the `NEIGHBOURS` rows before it and the bucket's first ones, not with all
    others: the document that stays is among the first, if the rows are in order of rank. `values` are the (rows,
    `BAND_ROWS`) places of the signatures in this band. Each distinct pair is its smaller row times the number of rows,
    plus the larger.
    """
    rows = len(values)
    key = np.full(rows, band + 1, np.uint64)
    for column in values.T:
        key = (key * _FNV ^ column) * _GOLDEN
    order = np.argsort(key, kind="stable")
    in_order = key[order]
    fresh = np.concatenate([[True], in_order[1:] != in_order[:-1]])
    heads = np.maximum.accumulate(np.where(fresh, np.arange(rows), 0))
    place = np.arange(rows) - heads
    found = []
    for step in range(1, NEIGHBOURS + 1):
        members = np.flatnonzero(place >= step)
        for others in (members - step, heads[members] + step - 1):
            found.append(order[others] * np.int64(rows) + order[members])
    return np.unique(np.concatenate(found))


def merge_copies(exact: Indices, rank: Indices, copies: tuple[Indices, Indices]) -> Indices:
    """Join each cluster of equal texts to the best-ranked one that stays and that it copies, if there is one.

    `exact` is the number of each row's cluster of equal texts, and `copies` are pairs of rows; of two rows the one of
    lower `rank` stays. Returns the number of each row's new cluster.
    """
    copied_by: dict[int, set[int]] = {}
    for one, other in zip(exact[copies[0]].tolist(), exact[copies[1]].tolist(), strict=True):
        copied_by.setdefault(one, set()).add(other)
        copied_by.setdefault(other, set()).add(one)
    best = np.full(int(exact.max(initial=-1)) + 1, len(exact), np.int64)
    np.minimum.at(best, exact, rank)
    stays: dict[int, int] = {}
    for cluster in sorted(copied_by, key=lambda cluster: int(best[cluster])):
        originals = [other for other in copied_by[cluster] if stays.get(other) == other]
        stays[cluster] = min(originals, key=lambda other: int(best[other]), default=cluster)
    mapped = np.arange(len(best))
    for cluster, original in stays.items():
        mapped[cluster] = original
    return np.unique(mapped[exact], return_inverse=True)[1].astype(np.int64)
