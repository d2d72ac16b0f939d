"""Read the sealed raw and scored shards: first what the choice needs of every document, later the chosen texts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from xxhash import xxh3_64_intdigest

from storage.errors import ParameterError, StoreError
from storage.manifest import Manifest, find_damage, require_manifest
from storage.parquet import read_component, read_shard
from storage.schemas import BANDS, RAW_SCHEMA, SCORED_SCHEMA, TRIVIA
from storage.text import clean_text
from tasks.mixture.deduplicate import UNKNOWN_YEAR
from tasks.mixture.pages import NOTHING, clean_pages, ocr_quality
from tasks.mixture.parameters import MixtureParameters
from tasks.mixture.pieces import Outline, outline_samples
from tasks.mixture.prompts import title_subject
from tasks.mixture.shingles import Fingerprints, fingerprint_texts, spaced
from tasks.mixture.subjects import SHORTEST_TEXT, key_hashes

Number = TypeVar("Number", bound=np.generic)
Result = TypeVar("Result")

SHARD_PREFIX = "shard-"
SHARDS_AT_ONCE = 2
"""Shards read at a time: one is decompressed while another is worked on."""
_SCAN_RAW = ["id", "title", "year", "text", "extra"]
_SCAN_SCORED = ["id", "auth_weight", "prov_entropy", "trivium_category", "band", "scoring_version"]


@dataclass(frozen=True)
class ShardPair:
    """The documents of a shard and their scores."""

    source: str
    raw: Path
    scored: Path


@dataclass(frozen=True)
class Keys:
    """Hashes of what pieces are about: the document's row, the piece's number and the hash, one entry a key."""

    documents: npt.NDArray[np.int64]
    parts: npt.NDArray[np.int64]
    hashes: npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Documents:
    """What is known of every document without its text, one entry a document.

    Attributes:
        ids: Document ids.
        shards: Which shard of the corpus it lies in.
        rows: Its row there.
        authority: Authority weight.
        entropy: Provenance entropy in bits.
        bands: Index into `storage.schemas.BANDS`.
        trivia: Index into `storage.schemas.TRIVIA`.
        years: Year, `UNKNOWN_YEAR` if unknown.
        works: Parent work, unique over sources; none if the document stands alone.
        parts: Numbers of the pieces that make samples.
        left_out: Characters behind the last piece, which no sample holds.
        cleaned: Whether cleaning changed the text; the second reading leaves the others as they are.
        titles: Hash of the title that the first piece is asked by, 0 for none.
        keys: What the pieces are about.
        quality: Share of known words, NaN where that says nothing.
        fingerprints: What duplicates are found by.
        scoring_versions: The versions that the scores were made by.
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
    quality: npt.NDArray[np.float32]
    fingerprints: Fingerprints
    scoring_versions: frozenset[str]
    outside: int
    cleaning: Counter[str]


def list_shards(
    raw_folders: Mapping[str, Path], scored_folders: Mapping[str, Path], filter_source: Sequence[str] = ()
) -> list[ShardPair]:
    """List the shards of the wanted sources, sources and shards in order of their names.

    Raises:
        ParameterError: A name in `filter_source` matches no source.
        StoreError: A dataset is missing, damaged, or not scored.
    """
    pairs = []
    for source in _wanted(sorted(raw_folders), filter_source):
        raw = _sound(raw_folders[source], f"download the source {source} first")
        if source not in scored_folders:
            raise StoreError(f"the source {source} is downloaded but not scored; score it first")
        scored = _sound(scored_folders[source], f"score the source {source} first")
        raw_rows, scored_rows = ({s.file: s.rows for s in m.shards if _is_documents(s.file)} for m in (raw, scored))
        if raw_rows != scored_rows:
            differing = sorted(dict(raw_rows.items() ^ scored_rows.items()))
            raise StoreError(
                f"the scores of {source} do not belong to its documents ({', '.join(differing[:3])} differ); score "
                "the source again"
            )
        pairs += [ShardPair(source, raw_folders[source] / f, scored_folders[source] / f) for f in sorted(raw_rows)]
    return pairs


class MapShards(Protocol):
    """Where work on shards is done."""

    def __call__(self, work: Callable[..., Result], calls: Iterable[tuple[Any, ...]], /) -> Iterable[Result]:
        """Call a function with each of the argument lists, one list a shard; results come in their order."""
        ...


def on_threads(work: Callable[..., Result], calls: Iterable[tuple[Any, ...]], /) -> list[Result]:
    """Work on `SHARDS_AT_ONCE` shards at a time in this process."""
    with ThreadPoolExecutor(SHARDS_AT_ONCE) as threads:
        return list(threads.map(lambda call: work(*call), calls))


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

    return Documents(
        ids=[name for part in parts for name in part.ids],
        shards=_joined([part.shards for part in parts], np.int64),
        rows=_joined([part.rows for part in parts], np.int64),
        authority=_joined([part.authority for part in parts], np.float32),
        entropy=_joined([part.entropy for part in parts], np.float32),
        bands=_joined([part.bands for part in parts], np.int64),
        trivia=_joined([part.trivia for part in parts], np.int64),
        years=_joined([part.years for part in parts], np.int64),
        works=[work for part in parts for work in part.works],
        parts=[numbers for part in parts for numbers in part.parts],
        left_out=_joined([part.left_out for part in parts], np.int64),
        cleaned=_joined([part.cleaned for part in parts], np.bool_),
        titles=_joined([part.titles for part in parts], np.uint64),
        keys=_joined_keys(parts),
        quality=_joined([part.quality for part in parts], np.float32),
        fingerprints=Fingerprints.joined([part.fingerprints for part in parts]),
        scoring_versions=versions,
        outside=sum(part.outside for part in parts),
        cleaning=sum((part.cleaning for part in parts), Counter()),
    )


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


def _wanted(sources: list[str], filter_source: Sequence[str]) -> list[str]:
    if not filter_source:
        return sources
    for name in filter_source:
        if not any(name in source for source in sources):
            raise ParameterError(
                f"filter_source names {name!r}, which is no source of this corpus; there are: "
                f"{', '.join(sources) or 'none'}"
            )
    return [source for source in sources if any(name in source for name in filter_source)]


def _sound(folder: Path, next_step: str) -> Manifest:
    manifest = require_manifest(folder, next_step)
    if damaged := find_damage(folder, manifest):
        raise StoreError(
            f"{folder} has lost or changed {len(damaged)} shards since it was sealed ({damaged[0]}); "
            "run its stage again"
        )
    return manifest


def _is_documents(file: str) -> bool:
    return Path(file).name.startswith(SHARD_PREFIX)


def scan_shard(index: int, pair: ShardPair, parameters: MixtureParameters) -> Documents:
    """Read one shard and keep all but its texts; `index` is its place in the corpus."""
    p = parameters
    raw = read_shard(pair.raw, RAW_SCHEMA, _SCAN_RAW)
    scored = read_shard(pair.scored, SCORED_SCHEMA, _SCAN_SCORED)
    if not raw.column("id").equals(scored.column("id")):
        raise StoreError(f"{pair.scored} scores other documents than {pair.raw} holds; score {pair.source} again")
    rows = np.flatnonzero(_inside(pair, scored, p))
    outside = raw.num_rows - len(rows)
    if outside:
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
        works=[_work_of(pair.source, extra, pair.raw) for extra in raw.column("extra").to_pylist()],
        parts=[outline.parts for outline in outlines],
        left_out=np.array([outline.left_out for outline in outlines], np.int64),
        cleaned=np.fromiter((new is not old for new, old in zip(texts, given, strict=True)), np.bool_, len(texts)),
        titles=np.fromiter((title for _, title in outlined), np.uint64, len(titles)),
        keys=_keys_of(outlines, p),
        quality=quality,
        fingerprints=fingerprint_texts(pa.array(fingerprinted, pa.large_string()), near=p.near_duplicates),
        scoring_versions=frozenset(pc.unique(scored.column("scoring_version")).to_pylist()),
        outside=outside,
        cleaning=cleaning,
    )


def _title_hash(title: str | None) -> int:
    subject = title_subject(title)
    return xxh3_64_intdigest(subject.encode()) if subject else 0


def _keys_of(outlines: Sequence[Outline], p: MixtureParameters) -> Keys:
    """Name what the pieces of a shard's documents are about; prompts by source have no use for it."""
    found = [
        (row, part, key)
        for row, outline in enumerate(outlines if p.prompts == "neutral" else ())
        for part in outline.parts
        if len(outline.pieces[part]) >= SHORTEST_TEXT
        for key in key_hashes(outline.pieces[part])
    ]
    rows, parts, hashes = zip(*found, strict=True) if found else ((), (), ())
    return Keys(np.array(rows, np.int64), np.array(parts, np.int64), np.array(hashes, np.uint64))


def _joined_keys(parts: Sequence[Documents]) -> Keys:
    starts = np.cumsum([0, *(len(part.ids) for part in parts)])[:-1].tolist()
    return Keys(
        _joined([part.keys.documents + start for part, start in zip(parts, starts, strict=True)], np.int64),
        _joined([part.keys.parts for part in parts], np.int64),
        _joined([part.keys.hashes for part in parts], np.uint64),
    )


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


def _joined(parts: list[npt.NDArray[Number]], dtype: type[Number]) -> npt.NDArray[Number]:
    """Put columns behind one another, also if there are none."""
    return np.concatenate([np.zeros(0, dtype), *parts])


def _codes(column: pa.ChunkedArray, names: Sequence[str]) -> npt.NDArray[np.int64]:
    return np.asarray(pc.index_in(column, value_set=pa.array(names)), dtype=np.int64)


def _work_of(source: str, extra: str, path: Path) -> str | None:
    """Return the parent work of a document; the same native name in two sources is two works."""
    if '"part_of"' not in extra:
        return None
    try:
        work = json.loads(extra).get("part_of")
    except (json.JSONDecodeError, AttributeError) as error:
        raise StoreError(
            f"{path} holds an extra column that is no JSON object ({error}); fetch {source} again"
        ) from error
    return None if work is None else f"{source}:{work}"
