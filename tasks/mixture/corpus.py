"""Read the sealed raw and scored shards: first what the choice needs of every document, later the chosen texts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from storage.errors import StoreError
from storage.parquet import read_component, read_shard
from storage.schemas import RAW_SCHEMA, SCORED_SCHEMA
from storage.text import clean_text
from storage.vocabulary import BANDS, TRIVIA
from tasks.mixture.deduplicate import UNKNOWN_YEAR
from tasks.mixture.pages import NOTHING, clean_pages, ocr_quality
from tasks.mixture.parameters import MixtureParameters
from tasks.mixture.pieces import outline_samples
from tasks.mixture.prompts import title_subject
from tasks.mixture.shards import MapShards, Result, ShardPair, on_threads
from tasks.mixture.shingles import Fingerprints, fingerprint_texts, spaced
from tasks.mixture.subjects import Keys, asked_of, keys_of, text_hash

SCAN_SCORED = ["id", "auth_weight", "prov_entropy", "trivium_category", "band", "scoring_version"]


@dataclass(frozen=True)
class Documents:
    """What is known of every document without its text, one entry a document.

    Attributes:
        shards, rows: Which shard of the corpus holds it, and its row there.
        authority, entropy: Authority weight, and provenance entropy in bits.
        bands, trivia: Index into `BANDS` and `TRIVIA` of `storage.schemas`.
        years: Year, `UNKNOWN_YEAR` if unknown.
        works: Parent work, unique over sources; none if the document stands alone.
        parts: Numbers of the pieces that make samples.
        left_out: Characters after the last piece, which no sample holds.
        cleaned: Whether cleaning changed the text; only such texts are cleaned at the second reading.
        titles: Hash of the title that the first piece is asked by, 0 for none.
        keys: What the pieces are about.
        asked: Pieces that keep to the subject for which their archive was asked; the hash is that of its name.
        asked_names: The names by hash.
        quality: Share of known words, NaN where that says nothing.
        fingerprints: What duplicates are found by.
        outside: How many documents lie outside the authority range, period or OCR quality that was asked for.
        cleaning: How often each rule of `tasks.mixture.pages` acted.
    """

    ids: list[str]
    shards: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    authority: npt.NDArray[np.float32]
    entropy: npt.NDArray[np.float32]
    bands: npt.NDArray[np.int64]
    trivia: npt.NDArray[np.int64]
    years: npt.NDArray[np.int64]
    works: list[str | None]
    parts: list[tuple[int, ...]]
    left_out: npt.NDArray[np.int64]
    cleaned: npt.NDArray[np.bool_]
    titles: npt.NDArray[np.uint64]
    keys: Keys
    asked: Keys
    asked_names: dict[int, str]
    quality: npt.NDArray[np.float32]
    fingerprints: Fingerprints
    scoring_versions: frozenset[str]
    outside: int
    cleaning: Counter[str]


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

    return _joined(parts, versions)


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


def scan_shard(index: int, pair: ShardPair, parameters: MixtureParameters) -> Documents:
    """Read one shard and keep all but its texts; `index` is its place in the corpus."""
    p = parameters
    raw = read_shard(pair.raw, RAW_SCHEMA, ["id", "title", "year", "text", "extra"])
    scored = read_shard(pair.scored, SCORED_SCHEMA, SCAN_SCORED)
    if not raw.column("id").equals(scored.column("id")):
        raise StoreError(f"{pair.scored} scores other documents than {pair.raw} holds; score {pair.source} again")
    rows = np.flatnonzero(_inside(pair, scored, p))
    if outside := raw.num_rows - len(rows):
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
    if p.min_ocr_quality and (poor := quality < p.min_ocr_quality).any():
        keep = np.flatnonzero(~poor)
        rows, raw, scored, quality = rows[keep], raw.take(keep), scored.take(keep), quality[keep]
        given, texts = ([column[i] for i in keep.tolist()] for column in (given, texts))
        outside += int(poor.sum())
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
        cleaned=np.fromiter((new is not old for new, old in zip(texts, given, strict=True)), np.bool_, len(texts)),
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


def _extra_of(pair: ShardPair, extra: str) -> dict[str, Any]:
    """Read what is kept beside a document, if anything of it matters here."""
    if '"part_of"' not in extra and '"asked_for"' not in extra:
        return {}
    try:
        found: dict[str, Any] = json.loads(extra)
        found.get("part_of")
    except (json.JSONDecodeError, AttributeError) as error:
        raise StoreError(
            f"{pair.raw} holds an extra column that is no JSON object ({error}); fetch {pair.source} again"
        ) from error
    return found


def _joined(parts: Sequence[Documents], versions: frozenset[str]) -> Documents:
    """Put what the shards hold one after another, also if there are none."""
    starts = np.cumsum([0, *(len(part.ids) for part in parts)])[:-1].tolist()

    def columns(name: str, dtype: type[np.generic]) -> npt.NDArray[Any]:
        return np.concatenate([np.zeros(0, dtype), *(getattr(part, name) for part in parts)])

    return Documents(
        ids=[name for part in parts for name in part.ids],
        works=[work for part in parts for work in part.works],
        parts=[numbers for part in parts for numbers in part.parts],
        shards=columns("shards", np.int64),
        rows=columns("rows", np.int64),
        bands=columns("bands", np.int64),
        trivia=columns("trivia", np.int64),
        years=columns("years", np.int64),
        left_out=columns("left_out", np.int64),
        authority=columns("authority", np.float32),
        entropy=columns("entropy", np.float32),
        quality=columns("quality", np.float32),
        cleaned=columns("cleaned", np.bool_),
        titles=columns("titles", np.uint64),
        keys=Keys.joined([(part.keys, start) for part, start in zip(parts, starts, strict=True)]),
        asked=Keys.joined([(part.asked, start) for part, start in zip(parts, starts, strict=True)]),
        asked_names={key: name for part in parts for key, name in part.asked_names.items()},
        fingerprints=Fingerprints.joined([part.fingerprints for part in parts]),
        scoring_versions=versions,
        outside=sum(part.outside for part in parts),
        cleaning=sum((part.cleaning for part in parts), Counter()),
    )
