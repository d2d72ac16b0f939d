"""Read the sealed raw and scored shards: first what the choice needs of every document, later the chosen texts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from storage.errors import StoreError
from storage.pages import NOTHING, clean_pages
from storage.parquet import read_component, read_shard
from storage.schemas import RAW_SCHEMA, SCORED_SCHEMA
from storage.shingles import fingerprint_texts, spaced
from storage.text import clean_text
from storage.vocabulary import BANDS, TRIVIA
from tasks.mixture.deduplicate import UNKNOWN_YEAR
from tasks.mixture.documents import Documents
from tasks.mixture.pages import ocr_quality
from tasks.mixture.parameters import MixtureParameters
from tasks.mixture.pieces import outline_samples
from tasks.mixture.prompts import title_subject
from tasks.mixture.shards import MapShards, Result, ShardPair, on_threads
from tasks.mixture.subjects import Keys, asked_of, keys_of, text_hash

SCAN_SCORED = ["id", "auth_weight", "prov_entropy", "trivium_category", "band", "scoring_version"]


@dataclass(frozen=True)
class Corpus:
    """The documents that were read, and how their texts are read again."""

    pairs: Sequence[ShardPair]
    documents: Documents
    parameters: MixtureParameters
    map_shards: MapShards

    def read_again(
        self, work: Callable[..., list[Result]], documents: npt.NDArray[np.int64], *columns: npt.NDArray[np.int64]
    ) -> list[Result]:
        """Call `work` with a shard, rows, columns and the parameters, shard by shard; keep the order of `documents`."""
        shards = self.documents.shards[documents]
        places = [np.flatnonzero(shards == shard) for shard in np.unique(shards).tolist()]
        calls = []
        for some in places:
            of_shard = (self.documents.rows[documents[some]], *(column[some] for column in columns))
            calls.append((self.pairs[int(shards[some[0]])], *of_shard, self.parameters))
        found = [result for results in self.map_shards(work, calls) for result in results]
        in_order = np.argsort(np.concatenate([np.zeros(0, np.int64), *places]), kind="stable")
        return [found[place] for place in in_order.tolist()]


def scan_documents(
    pairs: Sequence[ShardPair], parameters: MixtureParameters, map_shards: MapShards = on_threads
) -> Documents:
    """Read every shard once, text by text, and keep all but the texts.

    Raises:
        StoreError: Scores and documents do not match, or scores of different versions are mixed.
    """
    parts = list(map_shards(scan_shard, ((index, pair, parameters) for index, pair in enumerate(pairs))))
    versions = frozenset[str]().union(*(part.scoring_versions for part in parts))
    if len(versions) > 1:
        raise StoreError(
            f"the scores are of different versions ({', '.join(sorted(versions))}); score all sources again"
        )
    return Documents.joined(parts, versions)


def read_columns(
    pair: ShardPair, rows: npt.NDArray[np.int64], cleaned: npt.NDArray[np.bool_], p: MixtureParameters
) -> dict[str, list[Any]]:
    """Read the chosen documents of a shard column by column, with the source type that their scores settled on.

    Args:
        pair: The shard.
        rows: Which of its rows.
        cleaned: Whether cleaning changes their texts, as `Documents` has it.
        p: How texts are cleaned.
    """
    names = ["id", "source_type", "url", "title", "author", "year", "licence", "text"]
    table = read_shard(pair.raw, RAW_SCHEMA, names).take(rows)
    columns: dict[str, list[Any]] = {name: table.column(name).to_pylist() for name in names}
    texts = columns["text"]
    for index in np.flatnonzero(cleaned).tolist():
        texts[index] = cleaned_text(texts[index], p)[0]
    scored_types = read_component(pair.scored, "source_type").take(rows).to_pylist()
    columns["source_type"] = [new or old for new, old in zip(scored_types, columns["source_type"], strict=True)]
    return columns


def read_texts(pair: ShardPair, rows: npt.NDArray[np.int64], p: MixtureParameters) -> list[str]:
    """Read the texts of some documents of a shard as they are compared and trained on."""
    table = read_shard(pair.raw, RAW_SCHEMA, ["text"]).take(rows)
    return [cleaned_text(text, p)[0] for text in table.column("text").to_pylist()]


def cleaned_text(text: str, p: MixtureParameters) -> tuple[str, Counter[str]]:
    """Clean a text as it was scored and, if asked for, of page furniture; also count what the rules did."""
    plain = clean_text(text)
    return clean_pages(plain) if p.clean_pages else (plain, NOTHING)


class _Shard(NamedTuple):
    """The documents of a shard that the parameters take, with their cleaned texts."""

    raw: pa.Table
    scored: pa.Table
    rows: npt.NDArray[np.int64]
    texts: list[str]
    was_cleaned: list[bool]
    quality: npt.NDArray[np.float32]
    cleaning: Counter[str]
    outside: int
    """Documents that the parameters leave out."""


def _read_cleaned(pair: ShardPair, p: MixtureParameters) -> _Shard:
    raw = read_shard(pair.raw, RAW_SCHEMA, ["id", "title", "year", "text", "extra"])
    scored = read_shard(pair.scored, SCORED_SCHEMA, SCAN_SCORED)
    if not raw.column("id").equals(scored.column("id")):
        raise StoreError(f"{pair.scored} scores other documents than {pair.raw} holds; score {pair.source} again")
    rows = np.flatnonzero(_inside(pair, scored, p))
    all_documents = raw.num_rows
    if len(rows) < all_documents:
        raw, scored = raw.take(rows), scored.take(rows)
    # Raw texts are as their archive sent them; what is compared and trained on is cleaned.
    given = raw.column("text").to_pylist()
    texts, cleaning = [], Counter[str]()
    for text in given:
        cleaned, counts = cleaned_text(text, p)
        texts.append(cleaned)
        if counts:
            cleaning += counts
    quality = np.array([ocr_quality(text) for text in texts], np.float32)
    was_cleaned = [new is not old for new, old in zip(texts, given, strict=True)]
    if p.min_ocr_quality and (quality < p.min_ocr_quality).any():
        keep = np.flatnonzero(~(quality < p.min_ocr_quality))
        rows, raw, scored, quality = rows[keep], raw.take(keep), scored.take(keep), quality[keep]
        texts, was_cleaned = [texts[i] for i in keep.tolist()], [was_cleaned[i] for i in keep.tolist()]
    return _Shard(raw, scored, rows, texts, was_cleaned, quality, cleaning, all_documents - len(rows))


def scan_shard(index: int, pair: ShardPair, parameters: MixtureParameters) -> Documents:
    """Read one shard and keep all but its texts; `index` is its place in the corpus."""
    p = parameters
    raw, scored, rows, texts, was_cleaned, quality, cleaning, outside = _read_cleaned(pair, p)
    titles = raw.column("title").to_pylist()
    # Side by side, since each looks at the title.
    outlined = [
        (outline_samples(title, text, p.piece_chars, p.max_pieces), _title_hash(title))
        for title, text in zip(titles, texts, strict=True)
    ]
    outlines = [outline for outline, _ in outlined]
    extras = [_extra_of(pair, extra) for extra in raw.column("extra").to_pylist()]
    works = [extra.get("part_of") for extra in extras]
    asked = asked_of([extra.get("asked_for") for extra in extras], outlines) if p.prompts == "neutral" else []
    fingerprinted = list(map(spaced, texts)) if p.near_duplicates else texts
    return Documents(
        ids=raw.column("id").to_pylist(),
        shards=np.full(len(rows), index, np.int64),
        rows=rows,
        authority=scored.column("auth_weight").to_numpy(),
        entropy=scored.column("prov_entropy").to_numpy(),
        bands=_codes(scored.column("band"), BANDS),
        trivia=_codes(scored.column("trivium_category"), TRIVIA),
        years=raw.column("year").fill_null(UNKNOWN_YEAR).to_numpy().astype(np.int64),
        # The same native name in two sources is two works.
        works=[None if work is None else f"{pair.source}:{work}" for work in works],
        parts=[outline.parts for outline in outlines],
        left_out=np.array([outline.left_out for outline in outlines], np.int64),
        cleaned=np.array(was_cleaned, np.bool_),
        titles=np.fromiter((title for _, title in outlined), np.uint64, len(titles)),
        keys=keys_of(outlines) if p.prompts == "neutral" else Keys.of([]),
        asked=Keys.of([(row, part, text_hash(name)) for row, part, name in asked]),
        asked_names={text_hash(name): name for _, _, name in asked},
        quality=quality,
        fingerprints=fingerprint_texts(pa.array(fingerprinted, pa.large_string()), near=p.near_duplicates),
        scoring_versions=frozenset(pc.unique(scored.column("scoring_version")).to_pylist()),
        outside=outside,
        cleaning=cleaning,
    )


def _title_hash(title: str | None) -> int:
    subject = title_subject(title)
    return text_hash(subject) if subject else 0


def _inside(pair: ShardPair, scored: pa.Table, p: MixtureParameters) -> npt.NDArray[np.bool_]:
    """Tell which documents of a shard lie in the authority range and period that were asked for."""
    authority = scored.column("auth_weight").to_numpy().astype(np.float64)
    # The stored numbers are float32: a bound of 0.3 takes in the score 0.3.
    inside = (authority >= np.float32(p.min_authority)) & (authority <= np.float32(p.max_authority))
    if p.has_period:
        years = read_component(pair.scored, "year").to_pylist()
        dated = read_component(pair.scored, "year_evidence").to_pylist()
        first, last = p.first_year or -UNKNOWN_YEAR, p.last_year or UNKNOWN_YEAR
        in_period = [
            evidence != "none" and year is not None and first <= year <= last
            for year, evidence in zip(years, dated, strict=True)
        ]
        inside &= np.array(in_period, np.bool_)  # a shard may hold rejects alone, and an empty list says no type
    return np.asarray(inside)


def _codes(column: pa.ChunkedArray, names: Sequence[str]) -> npt.NDArray[np.int64]:
    return np.asarray(pc.index_in(column, value_set=pa.array(names)), dtype=np.int64)


def _extra_of(pair: ShardPair, extra: str) -> dict[str, object]:
    """Read what is kept beside a document, if anything of it matters here."""
    if '"part_of"' not in extra and '"asked_for"' not in extra:
        return {}
    try:
        found: dict[str, Any] = json.loads(extra)
        found.get("part_of")
    except (json.JSONDecodeError, AttributeError) as error:
        raise StoreError(
            f"{pair.raw} holds an extra column that is not a JSON object ({error}); fetch {pair.source} again"
        ) from error
    return found
