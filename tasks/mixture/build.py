"""Build a balanced mixture on disk: read, deduplicate, cut, pair, draw, write; the manifest comes last."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import JsonValue

from storage.atomic import atomic_folder, full_disk_explained, write_json
from storage.errors import MixtureError
from storage.manifest import Manifest, ShardRecord, write_manifest
from storage.shingles import Hashes, ordered_shingles
from tasks.mixture.conflicts import Conflicts, find_conflicts
from tasks.mixture.corpus import Corpus, read_texts, scan_documents
from tasks.mixture.deduplicate import Duplicates, deduplicate
from tasks.mixture.documents import Documents
from tasks.mixture.draw import SIDES, Drawn, draw_mixture
from tasks.mixture.lesson_file import lesson_file_sha256, read_lesson_file
from tasks.mixture.lessons import LessonMaker
from tasks.mixture.parameters import MixtureParameters
from tasks.mixture.report import MixtureReport, make_report
from tasks.mixture.samples import (
    KIND,
    METADATA,
    MIXTURE_LAYOUT,
    ChosenSamples,
    compose_shard,
    lesson_table,
    write_jsonl,
    write_side,
)
from tasks.mixture.shards import MapShards, ShardPair, list_shards, on_threads
from tasks.mixture.sides import Candidates, both_voices

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Pool:
    """Candidates, with the document and the piece that each of them is, and the prompts that both bands answer."""

    candidates: Candidates
    documents: Indices
    parts: Indices
    conflicts: Conflicts


def build_mixture(
    raw_folders: Mapping[str, Path],
    scored_folders: Mapping[str, Path],
    destination: Path,
    parameters: MixtureParameters,
    inputs: dict[str, str],
    map_shards: MapShards = on_threads,
) -> Manifest:
    """Build a mixture from sealed raw and scored datasets.

    Args:
        raw_folders: Folder of each source's documents.
        scored_folders: Folder of each source's scores.
        destination: The mixture's folder; it appears, or replaces an older one, whole.
        parameters: Sizes, shares, seed and pieces.
        inputs: Digest of every input, kept in the manifest.
        map_shards: Where the passes over the shards are worked on; it does not change what comes out.

    Returns:
        The manifest that seals the mixture. The shards depend on documents, scores and parameters alone.

    Raises:
        MixtureError: The corpus does not hold the mixture.
        ParameterError: A parameter names something that is not there, or the lessons share words with a suite.
        StoreError: A dataset is missing, damaged or not scored.
    """
    maker = LessonMaker(read_lesson_file(), parameters.seed) if parameters.lessons_share else None
    pairs = list_shards(raw_folders, scored_folders, parameters.filter_source)
    corpus = Corpus(pairs, scan_documents(pairs, parameters, map_shards), parameters, map_shards)
    duplicates = _deduplicate(corpus)
    pool = _make_pool(corpus, duplicates)
    drawn = _draw(pool, corpus)
    conflict_ids = _conflict_ids(pool, drawn)
    with full_disk_explained(destination.parent), atomic_folder(destination) as folder:
        tables = _compose(corpus, duplicates, pool, drawn, conflict_ids)
        records, lessons = _write_sides(folder, tables, drawn, maker, parameters)
        report = make_report(destination.name, corpus, duplicates, pool, drawn, conflict_ids, lessons)
        write_json(folder / METADATA, report.model_dump(mode="json"))
        manifest = Manifest(
            kind=KIND,
            name=destination.name,
            inputs=inputs,
            parameters=parameters.model_dump(mode="json"),
            shards=records,
            counts=_counts(drawn, lessons) | duplicates.counts,
            notes=_notes(report),
        )
        write_manifest(folder, manifest)
    return manifest


def _deduplicate(corpus: Corpus) -> Duplicates:
    d, read_shingles = corpus.documents, partial(corpus.read_again, shingles_of_shard)
    return deduplicate(d.ids, d.fingerprints, d.authority, d.years, d.works, read_shingles, corpus.parameters.seed)


def _draw(pool: Pool, corpus: Corpus) -> Drawn:
    try:
        return draw_mixture(pool.candidates, corpus.parameters)
    except MixtureError as error:
        read = _what_was_read(pool.candidates, corpus.documents, corpus.parameters)
        raise MixtureError(f"{error}. {read}") from error


def _counts(drawn: Drawn, lessons: tuple[int, int]) -> dict[str, int]:
    train, valid = len(drawn.train) + lessons[0], len(drawn.valid) + lessons[1]
    return {"train": train, "valid": valid, "lessons": sum(lessons)}


def _notes(report: MixtureReport) -> dict[str, JsonValue]:
    """What the later stages ask of a mixture without reading its report."""
    return {
        "layout": MIXTURE_LAYOUT,
        "lessons": lesson_file_sha256(),
        "verdict": {side: distribution.verdict for side, distribution in report.distribution.items()},
        "remarks": list(report.remarks),
        "limited_by": list(report.limited_by),
    }


def shingles_of_shard(pair: ShardPair, rows: Indices, p: MixtureParameters) -> list[Hashes]:
    """Return the shingles of some documents of a shard."""
    unique, places = np.unique(rows, return_inverse=True)
    shingles = ordered_shingles(read_texts(pair, unique, p))
    return [shingles[place] for place in places.tolist()]


def _make_pool(corpus: Corpus, duplicates: Duplicates) -> Pool:
    """Make a candidate of every piece of every document that stays."""
    pairs, documents = corpus.pairs, corpus.documents
    kept = np.flatnonzero(duplicates.keep)
    counts = np.array([len(documents.parts[i]) for i in kept.tolist()], np.int64)
    owner = np.repeat(kept, counts)
    parts = np.array([part for i in kept.tolist() for part in documents.parts[i]], np.int64)
    names = sorted({pair.source for pair in pairs})
    source_of_shard = np.array([names.index(pair.source) for pair in pairs], np.int64)
    numbers: dict[str, int] = {}
    group_of = np.array([numbers.setdefault(duplicates.group_id[i], len(numbers)) for i in kept.tolist()], np.int64)
    groups = np.repeat(group_of, counts)
    conflicts = find_conflicts(corpus, owner, parts, groups)
    candidates = Candidates(
        ids=[sample_id(documents.ids[i], part) for i, part in zip(owner.tolist(), parts.tolist(), strict=True)],
        groups=groups,
        group_names=list(numbers),
        bands=documents.bands[owner],
        trivia=documents.trivia[owner],
        sources=source_of_shard[documents.shards[owner]],
        source_names=names,
        conflicts=conflicts.numbers,
    )
    return Pool(candidates, owner, parts, conflicts)


def sample_id(document_id: str, part: int) -> str:
    """Name a piece of a document."""
    return f"{document_id}#{part}"


def _conflict_ids(pool: Pool, drawn: Drawn) -> list[str | None]:
    """Name the prompt of every drawn sample, training first, that low and high samples of its side both answer."""
    named: list[str | None] = []
    for rows in (drawn.train, drawn.valid):
        numbers = pool.conflicts.numbers[rows]
        both = both_voices(numbers, pool.candidates.bands[rows], pool.candidates.groups[rows])
        answered = zip(numbers.tolist(), both.tolist(), strict=True)
        named += [pool.conflicts.names[number] if contested else None for number, contested in answered]
    return named


def _compose(
    corpus: Corpus, duplicates: Duplicates, pool: Pool, drawn: Drawn, conflict_ids: list[str | None]
) -> list[pa.Table]:
    """Fetch the chosen texts shard by shard; the column ``rank`` is a sample's place in training and validation."""
    chosen = np.concatenate([drawn.train, drawn.valid])
    shards = corpus.documents.shards[pool.documents[chosen]]
    of_shards = (
        _choose(corpus, index, duplicates, pool, chosen, np.flatnonzero(shards == index), conflict_ids)
        for index in np.unique(shards).tolist()
    )
    return list(corpus.map_shards(compose_shard, ((of_shard, corpus.parameters) for of_shard in of_shards)))


def _choose(
    corpus: Corpus,
    shard: int,
    duplicates: Duplicates,
    pool: Pool,
    chosen: Indices,
    ranks: Indices,
    conflict_ids: list[str | None],
) -> ChosenSamples:
    """Gather what is known of the chosen samples of a shard; `ranks` are their places in `chosen`."""
    documents = corpus.documents
    owners, parts = pool.documents[chosen[ranks]], pool.parts[chosen[ranks]]
    order = np.lexsort((parts, documents.rows[owners]))  # the samples of a document one after another
    ranks, owners, parts = ranks[order], owners[order], parts[order]
    return ChosenSamples(
        pair=corpus.pairs[shard],
        ids=[pool.candidates.ids[i] for i in chosen[ranks].tolist()],
        document_ids=[documents.ids[owner] for owner in owners.tolist()],
        group_ids=[duplicates.group_id[owner] for owner in owners.tolist()],
        ranks=ranks,
        rows=documents.rows[owners],
        parts=parts,
        counts=np.array([len(documents.parts[owner]) for owner in owners.tolist()], np.int64),
        authority=documents.authority[owners],
        entropy=documents.entropy[owners],
        bands=documents.bands[owners],
        trivia=documents.trivia[owners],
        cleaned=documents.cleaned[owners],
        quality=documents.quality[owners],
        subjects=[pool.conflicts.subjects.get(i) for i in chosen[ranks].tolist()],
        conflict_ids=[conflict_ids[rank] for rank in ranks.tolist()],
    )


def _write_sides(
    folder: Path,
    tables: list[pa.Table],
    drawn: Drawn,
    maker: LessonMaker | None,
    p: MixtureParameters,
) -> tuple[list[ShardRecord], tuple[int, int]]:
    """Write both sides, each with its lessons among its samples; also return how many lessons each has."""
    records: list[ShardRecord] = []
    lessons = []
    first = 0
    for side, chosen in zip(SIDES, (drawn.train, drawn.valid), strict=True):
        last = first + len(chosen)
        of_side = [_ranked(table, first, last) for table in tables]
        made = lesson_table(of_side, maker, round(len(chosen) * p.lessons_share / (1 - p.lessons_share)), p.seed)
        # Lessons stand at even distances among the samples, so that no table has to be put into another order.
        before = (np.arange(made.num_rows) + 1) * len(chosen) // (made.num_rows + 1)
        of_side = [_placed(table, before, first) for table in of_side]
        of_side.append(made.set_column(made.num_columns - 1, "rank", pa.array(before + np.arange(made.num_rows))))
        records += write_side(folder, side, of_side, len(chosen) + made.num_rows)
        lessons.append(made.num_rows)
        first = last
    if p.jsonl:
        write_jsonl(folder, records)
    return records, (lessons[0], lessons[1])


def _ranked(table: pa.Table, first: int, last: int) -> pa.Table:
    """Return the rows of a table, which is in order of rank, from one rank up to another."""
    start, end = np.searchsorted(table.column("rank").to_numpy(), (first, last)).tolist()
    return table.slice(start, end - start)


def _placed(table: pa.Table, before: Indices, first: int) -> pa.Table:
    """Give the rows of a table their ranks in the side, with a lesson before each sample whose place is named."""
    ranks = table.column("rank").to_numpy() - first
    ranks = ranks + np.searchsorted(before, ranks, side="right")
    return table.set_column(table.num_columns - 1, "rank", pa.array(ranks, pa.int64()))


def _what_was_read(candidates: Candidates, documents: Documents, parameters: MixtureParameters) -> str:
    """Name the sources read, the bands of their samples and what the focus leaves out, for an error message."""
    if not candidates.source_names:
        return "No source was given; download and score some first"
    listed, outside, total = [], documents.outside, documents.outside + len(documents.ids)
    narrowed = f"{outside} of {total} documents lie outside {parameters.focus}. " if outside else ""
    for number, source in enumerate(candidates.source_names):
        bands = candidates.band_counts(np.flatnonzero(candidates.sources == number))
        listed.append(f"{source} ({', '.join(f'{rows} {band}' for band, rows in bands.items())})")
    return f"{narrowed}Samples by source: {'; '.join(listed)}"
