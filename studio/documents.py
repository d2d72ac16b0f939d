"""Scored documents, a page at a time: shards are read until the page is full, or until the patience ends.

The shards of all sources have a fixed order. A place among them is written ``shard.row``, so that a page deep in a
million documents costs no more than the first. Nothing is kept in memory but the places of the last ranked lists.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field

from storage.errors import StoreError
from storage.layout import Layout
from storage.parquet import iterate_rows, read_columns
from storage.schemas import RAW_SCHEMA
from storage.vocabulary import Band, Trivium
from tasks.signals.explain import find_document, scored_shards
from tasks.signals.priors import LABEL_COLUMNS, label_differences

PAGE_ROWS = 25
RANKED_ROWS = 1000
"""So many documents of a ranked list can be paged through."""
PATIENCE_SECONDS = 4.0
RANKING_SECONDS = 30.0

Order = Literal["stored", "disagreement", "lowest", "highest"]
Rows = npt.NDArray[np.int64]


class Search(BaseModel):
    """What is looked for, as the query of an address."""

    model_config = ConfigDict(frozen=True)

    words: str = Field("", max_length=200)
    """All of them must stand in the title or the id, or in the text; capitals do not matter."""
    inside: Literal["title", "text"] = "title"
    source: str = Field("", max_length=100)
    band: Literal[Band, ""] = ""
    trivium: Literal[Trivium, ""] = ""
    order: Order = "stored"
    after: str = Field("0.0", pattern=r"^\d{1,9}\.\d{1,9}$")
    """The place where the page begins: ``shard.row``, or ``0.rank`` in a ranked list."""

    @property
    def start(self) -> tuple[int, int]:
        """The place as numbers."""
        first, _, second = self.after.partition(".")
        return int(first), int(second)


class Shard(NamedTuple):
    """A shard of documents and that of their scores, which have the same rows."""

    source: str
    file: str
    raw: Path
    scored: Path
    rows: int


class Found(NamedTuple):
    """A document of a page; `difference` is how far its text is from its label, None where they cannot disagree."""

    id: str
    source: str
    file: str
    title: str
    year: int | None
    authority: float
    bits: float
    band: str
    trivium: str
    difference: float | None


class Page(NamedTuple):
    """A page of a search.

    Attributes:
        documents: Its documents.
        after: Where the next page begins; empty at the end.
        searched: How many documents, of `all`, were looked at: those up to the end of the page, or for the ranked list.
        all: Documents of the sources that are searched.
        complete: Whether the page is full, or everything was searched.
        remarks: Why a source is left out.
        seconds: How long it took.
    """

    documents: list[Found]
    after: str
    searched: int
    all: int
    complete: bool
    remarks: tuple[str, ...]
    seconds: float


def search(layout: Layout, wanted: Search, patience_seconds: float = PATIENCE_SECONDS) -> Page:
    """Find the documents of a page.

    Raises:
        StoreError: A shard cannot be read.
    """
    began = time.monotonic()
    shards, remarks = list_shards(layout, wanted.source)
    if wanted.order == "stored":
        places, after, searched = _stored(shards, wanted, began + patience_seconds)
        complete = not after or len(places) == PAGE_ROWS
    else:
        ranked, searched = _ranked(shards, wanted.model_copy(update={"after": "0.0"}))
        _, start = wanted.start
        places = ranked[start : start + PAGE_ROWS]
        after = f"0.{start + PAGE_ROWS}" if len(ranked) > start + PAGE_ROWS else ""
        complete = searched == len(shards)
    read, every = (sum(shard.rows for shard in some) for some in (shards[:searched], shards))
    return Page(_describe(shards, places), after, read, every, complete, remarks, time.monotonic() - began)


def list_shards(layout: Layout, source: str = "") -> tuple[tuple[Shard, ...], tuple[str, ...]]:
    """List the shards of a source, or of all, and say which sources cannot be shown and why."""
    shards: list[Shard] = []
    remarks = []
    for name in layout.completed("scored"):
        if source and name != source:
            continue
        try:
            manifests = (layout.raw(name) / "manifest.json", layout.scored(name) / "manifest.json")
            stamps = tuple(path.stat().st_mtime_ns if path.exists() else 0 for path in manifests)
            shards += _shards_of(layout, name, stamps)
        except StoreError as error:
            remarks.append(str(error))
    return tuple(shards), tuple(remarks)


@lru_cache(maxsize=256)
def _shards_of(layout: Layout, source: str, stamps: tuple[int, ...]) -> tuple[Shard, ...]:
    """Read the manifests of a source once for each state of them; `stamps` says which."""
    raw, scored = layout.raw(source), layout.scored(source)
    shards = scored_shards(layout, source)
    return tuple(Shard(source, each.file, raw / each.file, scored / each.file, each.rows) for each in shards)


def open_document(layout: Layout, identifier: str, file: str = "") -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return a document and its scores; `file` is the shard that it was last seen in.

    Raises:
        ParameterError: There is no such document.
        StoreError: Its source is not scored, or a shard cannot be read.
    """
    source = identifier.partition(":")[0]
    files = [shard.file for shard in scored_shards(layout, source)]
    return find_document(layout.raw(source), layout.scored(source), [file] if file in files else files, identifier)


def _stored(shards: Sequence[Shard], wanted: Search, until: float) -> tuple[list[tuple[int, int]], str, int]:
    """Go on from a place until a page is full, time is up, or all is read; return places, the next one, and how far."""
    number, first = wanted.start
    places: list[tuple[int, int]] = []
    while number < len(shards):
        rows, _ = _matches(shards[number], wanted)
        rows = rows[rows >= first]
        room = PAGE_ROWS - len(places)
        places += [(number, row) for row in rows[:room].tolist()]
        if len(rows) > room:
            return places, f"{number}.{rows[room]}", number + 1
        number, first = number + 1, 0
        if number < len(shards) and (len(places) == PAGE_ROWS or time.monotonic() > until):
            return places, f"{number}.0", number
    return places, "", len(shards)


@lru_cache(maxsize=16)
def _ranked(shards: tuple[Shard, ...], wanted: Search) -> tuple[list[tuple[int, int]], int]:
    """Return the places of the first `RANKED_ROWS` documents in an order, and how many shards were read for it."""
    until = time.monotonic() + RANKING_SECONDS
    best: list[tuple[float, int, int]] = []
    number = 0
    for number, shard in enumerate(shards, 1):
        rows, keys = _matches(shard, wanted)
        if len(best) == RANKED_ROWS:
            rows, keys = rows[keys < best[-1][0]], keys[keys < best[-1][0]]
        if len(rows):
            first = np.argsort(keys, kind="stable")[:RANKED_ROWS]
            best += zip(keys[first].tolist(), itertools.repeat(number - 1), rows[first].tolist())
            best = sorted(best)[:RANKED_ROWS]
        if time.monotonic() > until:
            break
    return [(shard_number, row) for _, shard_number, row in best], number


def _matches(shard: Shard, wanted: Search) -> tuple[Rows, npt.NDArray[np.float64]]:
    """Return the rows of a shard that are looked for, in their order, and what a ranked list sorts them by."""
    labels = LABEL_COLUMNS if wanted.order == "disagreement" else []
    scores = read_columns(shard.scored, ["auth_weight", "band", "trivium_category", *labels])
    keep = np.ones(scores.num_rows, np.bool_)
    for column, value in (("band", wanted.band), ("trivium_category", wanted.trivium)):
        if value:
            keep &= pc.equal(scores.column(column), value).to_numpy()
    keys = scores.column("auth_weight").to_numpy().astype(np.float64)
    if wanted.order == "highest":
        keys = -keys
    elif wanted.order == "disagreement":
        keys = -np.abs(label_differences(scores.column("components")))
        keep &= ~np.isnan(keys)
    if wanted.words.strip() and keep.any():
        keep &= _have_words(shard.raw, wanted)
    rows = np.flatnonzero(keep)
    return rows, keys[rows]


def _have_words(path: Path, wanted: Search) -> npt.NDArray[np.bool_]:
    """Say of each document of a shard whether all words occur in it; texts are read a batch at a time."""
    words = wanted.words.split()
    if wanted.inside == "text":
        batches = iterate_rows(path, pa.schema([RAW_SCHEMA.field("text")]))
        found = [_contain_all(batch.column(0), words) for batch in batches]
        return np.concatenate(found) if found else np.zeros(0, np.bool_)
    named = read_columns(path, ["id", "title"])
    joined = pc.binary_join_element_wise(named.column("id"), named.column("title").fill_null(""), " ")
    return _contain_all(joined, words)


def _contain_all(texts: pa.Array, words: Sequence[str]) -> npt.NDArray[np.bool_]:
    keep = np.ones(len(texts), np.bool_)
    for word in words:
        keep &= pc.match_substring(texts, word, ignore_case=True).to_numpy(zero_copy_only=False)
    return keep


def _describe(shards: Sequence[Shard], places: Sequence[tuple[int, int]]) -> list[Found]:
    """Read what a page shows of its documents, each shard once."""
    rows: dict[int, list[int]] = {}
    for number, row in places:
        rows.setdefault(number, []).append(row)
    described = {
        (number, row): found
        for number, wanted in rows.items()
        for row, found in zip(wanted, _read_rows(shards[number], wanted), strict=True)
    }
    return [described[place] for place in places]


def _read_rows(shard: Shard, rows: list[int]) -> Iterator[Found]:
    documents = read_columns(shard.raw, ["id", "title", "year"]).take(rows)
    names = ["auth_weight", "prov_entropy", "band", "trivium_category", *LABEL_COLUMNS]
    scores = read_columns(shard.scored, names).take(rows)
    differences = label_differences(scores.column("components")).tolist()
    for document, score, difference in zip(documents.to_pylist(), scores.to_pylist(), differences, strict=True):
        yield Found(
            id=document["id"],
            source=shard.source,
            file=shard.file,
            title=document["title"] or document["id"],
            year=document["year"],
            authority=score["auth_weight"],
            bits=score["prov_entropy"],
            band=score["band"],
            trivium=score["trivium_category"],
            difference=None if np.isnan(difference) else difference,
        )
