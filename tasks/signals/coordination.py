"""Coordination: in how many outlets the same words stand, counted over every document of a store.

Each shard is fingerprinted once: a MinHash signature of the first `COMPARED_CHARS` characters of every text, licences
taken out, as the mixture finds near duplicates by. Then one count over all shards reads the signatures band by band, so
that memory grows by some hundred bytes a document. Copies are texts whose signatures agree in `COPY_AGREEMENT` of their
places with the first of them, so that no chain joins two that differ. Of a document's copies count those of its own
year, of the year before and of the year after, and those without a year: the reprint of an old book is no campaign.

An outlet is what a document's metadata names as one (`OUTLET_KEYS`), else the host of its address, else its source.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from storage.pages import LICENCE_NEEDLES, clean_pages
from storage.parquet import open_shard, read_shard
from storage.schemas import FINGERPRINT_BANDS, FINGERPRINT_SCHEMA
from storage.shingles import BAND_ROWS, WITHOUT_BLANKS, Indices, bucket_pairs, fingerprint_texts, merge_copies
from storage.text import clean_text
from tasks.signals.cleaning import clean_texts
from tasks.signals.shards import read_batches

COMPARED_CHARS = 2000
SHORTEST_CHARS = 200
"""A shorter text may be like another by chance."""
COPY_AGREEMENT = 0.75
OUTLET_KEYS = ("outlet", "newspaper", "publisher", "lccn")
"""What the JSON object in ``extra`` may call an outlet; ``lccn`` is the Library of Congress' number of a newspaper."""
_NAMED = re.compile('"(?:' + "|".join(OUTLET_KEYS) + ')"')
_PLAIN_URL = re.compile(r"https?://([A-Za-z0-9.-]+)(?:[/?#]|\Z)")
NO_YEAR = -1
READ_BYTES = 16 << 20
"""Signatures in memory at a time."""
PAIRS_AT_ONCE = 1 << 20


def fingerprint_shard(raw: Path, fingerprints: Path, tags: Mapping[str, str]) -> None:
    """Write the fingerprints of the documents of a raw shard that are long enough.

    Raises:
        StoreError: The raw shard cannot be read, or the disk is full.
    """
    start = 0
    with open_shard(fingerprints, FINGERPRINT_SCHEMA) as writer:
        for table in read_batches(raw, ["source", "url", "year", "text", "extra"]):
            for batch in fingerprint_table(table, start).to_batches():
                writer.write_batch(batch)
            start += table.num_rows
        writer.tag(tags)


def fingerprint_table(table: pa.Table, start: int) -> pa.Table:
    """Fingerprint the documents of a raw table that are long enough, its first one being row `start` of its shard."""
    heads = pl.Series(pl.from_arrow(table.column("text").cast(pa.large_string()))).str.head(2 * COMPARED_CHARS)
    # Few texts have a licence, and page numbers hardly matter: only those pay for cleaning.
    licensed = heads.str.contains_any(list(LICENCE_NEEDLES), ascii_case_insensitive=True).arg_true()
    heads = heads.scatter(licensed, [clean_pages(clean_text(text))[0] for text in heads.gather(licensed)])
    texts = clean_texts(heads.str.head(COMPARED_CHARS))
    other = (texts.str.len_bytes() != texts.str.len_chars()).arg_true()  # beyond ASCII
    texts = texts.scatter(other, texts.gather(other).str.replace_all(WITHOUT_BLANKS, " ${0} "))
    rows = np.flatnonzero(texts.str.len_chars().to_numpy() >= SHORTEST_CHARS)
    compared = texts.gather(rows).to_arrow(compat_level=pl.CompatLevel.oldest())
    found = fingerprint_texts(compared, exact=False)
    rows, signatures = rows[found.comparable], found.signatures[found.comparable]
    # Of each value 16 bits: chance makes one in 65,536 agree.
    halves = signatures.astype(np.uint16).reshape(len(rows), len(FINGERPRINT_BANDS), BAND_ROWS)
    width = pa.binary(BAND_ROWS * halves.itemsize)
    bands = (halves[:, band].tobytes() for band in range(len(FINGERPRINT_BANDS)))
    some = table.drop_columns("text").take(rows)

    def values(name: str) -> list[Any]:
        found: list[Any] = some.column(name).to_pylist()
        return found

    columns = [
        pa.array(start + rows, pa.int32()),
        pa.array([outlet_of(*row) for row in zip(*map(values, ("source", "url", "extra")), strict=True)], pa.uint64()),
        some.column("year").fill_null(NO_YEAR).cast(pa.int32()).combine_chunks(),
        *(pa.FixedSizeBinaryArray.from_buffers(width, len(rows), [None, pa.py_buffer(band)]) for band in bands),
    ]
    return pa.Table.from_arrays(columns, schema=FINGERPRINT_SCHEMA)


def outlet_of(source: str, url: str | None, extra: str) -> int:
    """Return the number of the outlet that a document came out in."""
    named = json.loads(extra) if _NAMED.search(extra) else {}
    name = next((f"{key}:{named[key]}" for key in OUTLET_KEYS if named.get(key)), "") if named else ""
    name = name or _host(url or "").removeprefix("www.") or f"source:{source}"
    return xxh3_64_intdigest(name.casefold().encode())


def _host(url: str) -> str:
    if plain := _PLAIN_URL.match(url):  # five times as fast
        return plain[1].lower()
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def count_outlets(files: Sequence[Path]) -> list[Indices]:
    """Count for every document with copies the outlets that its words stand in at about the same time.

    Args:
        files: The fingerprints of all shards, always in the same order.

    Returns:
        For each file (documents, 2): the row in its shard and the number of outlets, two or more.

    Raises:
        StoreError: A file cannot be read.
    """
    described = [read_shard(file, FINGERPRINT_SCHEMA, ["row", "outlet", "year"]) for file in files]
    starts = np.cumsum([0, *(table.num_rows for table in described)])
    whole = pa.concat_tables(described) if described else FINGERPRINT_SCHEMA.empty_table()
    one, other = _copies(files, int(starts[-1]))
    involved, places = np.unique(np.concatenate([one, other]), return_inverse=True)
    itself = np.arange(len(involved))
    cluster = merge_copies(itself, itself, (places[: len(one)], places[len(one) :]))
    outlets = np.asarray(whole.column("outlet"))[involved]
    counts = _outlets_near(cluster, outlets, np.asarray(whole.column("year"))[involved])
    found = involved[counts > 1]
    rows = np.stack([np.asarray(whole.column("row"), np.int64)[found], counts[counts > 1]], axis=1)
    cuts = np.searchsorted(found, starts)
    return [rows[start:end] for start, end in pairwise(cuts.tolist())]


def _copies(files: Sequence[Path], rows: int) -> tuple[Indices, Indices]:
    """Find the pairs of documents that share a band and whose signatures agree."""
    pairs = np.zeros(0, np.int64)
    for band, values in _bands(files, rows):
        pairs = np.union1d(pairs, bucket_pairs(values, band))
    one, other = pairs // max(rows, 1), pairs % max(rows, 1)
    same = np.zeros(len(pairs), np.int32)
    for _, values in _bands(files, rows) if len(pairs) else ():
        for start in range(0, len(pairs), PAIRS_AT_ONCE):
            some = slice(start, start + PAIRS_AT_ONCE)
            same[some] += (values[one[some]] == values[other[some]]).sum(axis=1, dtype=np.int32)
    alike = same >= COPY_AGREEMENT * len(FINGERPRINT_BANDS) * BAND_ROWS
    return one[alike], other[alike]


def _bands(files: Sequence[Path], rows: int) -> Iterator[tuple[int, NDArray[np.uint16]]]:
    """Read the signatures of all files, as many bands at a time as fit into `READ_BYTES`."""
    at_once = max(1, READ_BYTES // max(1, 2 * BAND_ROWS * rows))
    for start in range(0, len(FINGERPRINT_BANDS) if rows else 0, at_once):
        names = list(FINGERPRINT_BANDS[start : start + at_once])
        read = [read_shard(file, FINGERPRINT_SCHEMA, names) for file in files]
        for place, name in enumerate(names, start):
            column = pa.chunked_array([chunk for table in read for chunk in table.column(name).chunks])
            yield place, np.concatenate([_numbers(chunk) for chunk in column.chunks])
        del read, column  # before the next ones are read


def _numbers(chunk: pa.FixedSizeBinaryArray) -> NDArray[np.uint16]:
    data = np.frombuffer(chunk.buffers()[1], np.uint16)
    return data.reshape(-1, BAND_ROWS)[chunk.offset : chunk.offset + len(chunk)]


def _outlets_near(cluster: Indices, outlets: NDArray[np.uint64], years: NDArray[np.int32]) -> Indices:
    """Count for each document of a cluster the outlets of its copies from about the same time."""
    of_year: defaultdict[tuple[int, int], set[int]] = defaultdict(set)
    of_all: defaultdict[int, set[int]] = defaultdict(set)
    members = list(zip(cluster.tolist(), years.tolist(), outlets.tolist(), strict=True))
    for group, year, outlet in members:
        of_year[group, year].add(outlet)
        of_all[group].add(outlet)
    counted = {
        (group, year): len(
            of_all[group]
            if year == NO_YEAR
            else set().union(*(of_year.get((group, near), ()) for near in (year - 1, year, year + 1, NO_YEAR)))
        )
        for group, year in list(of_year)
    }
    return np.array([counted[group, year] for group, year, _ in members], np.int64)
