"""Compose the chosen samples of a shard and the lessons of a side; write sides as Parquet shards or JSON lines."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from storage.chat import ASSISTANT_MARK, USER_TURN, escape_control
from storage.errors import StoreError
from storage.manifest import ShardRecord, record_shard
from storage.parquet import iterate_rows, write_shard
from storage.schemas import SAMPLE_SCHEMA
from storage.vocabulary import BANDS, TRIVIA
from tasks.mixture.corpus import read_columns
from tasks.mixture.lessons import LessonMaker, subject_of
from tasks.mixture.parameters import MixtureParameters
from tasks.mixture.pieces import Sample, compose_samples
from tasks.mixture.shards import ShardPair
from tasks.mixture.sides import keyed_hashes

KIND = "balanced"
METADATA = "metadata.json"
MIXTURE_LAYOUT = 5
"""Goes up when equal parameters mean another mixture or `METADATA` tells more, so that older ones are drawn again."""
SHARD_ROWS = 20_000
LESSON_AUTHORITY, LESSON_BITS = 0.15, 5.0
"""The scores of every lesson, as of a primary source of average rank: with the weights of their documents the modern
originals would hardly be learned."""
FEWEST_SUBJECTS, MOST_SUBJECTS = 500, 20_000
"""Samples of one side whose documents lessons are made of."""
SHARDS_AT_ONCE = 2
"""Shards compressed at a time."""
JSONL_NAMES = {"train": "train.jsonl", "valid": "val.jsonl"}
RANKED_SCHEMA = pa.schema([*(field for field in SAMPLE_SCHEMA if field.name != "text"), pa.field("rank", pa.int64())])
"""Samples before they are written; the text is put together then, so that it is not held twice."""
DESCRIPTION = ("title", "url", "author", "year", "licence")
"""What a sample's metadata tells of its document."""


@dataclass(frozen=True)
class ChosenSamples:
    """The chosen samples of one shard, one entry a sample, those of a document one after another.

    Attributes:
        pair: The shard.
        ids: Names of the samples.
        document_ids: Ids of their documents.
        group_ids: Names of their groups.
        ranks: Their places in the mixture.
        rows: Their documents' rows in the shard, ascending.
        parts: Numbers of their pieces.
        counts: How many pieces their documents have.
        authority: Authority weights.
        entropy: Provenance entropies in bits.
        bands: Index into `storage.schemas.BANDS`.
        trivia: Index into `storage.schemas.TRIVIA`.
        cleaned: Whether cleaning changes their document's text.
        quality: OCR quality of their documents, NaN where unknown.
        subjects: What they are asked about if not by the title.
        conflict_ids: Name of the prompt that both bands answer.
    """

    pair: ShardPair
    ids: list[str]
    document_ids: list[str]
    group_ids: list[str]
    ranks: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    parts: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    authority: npt.NDArray[np.float32]
    entropy: npt.NDArray[np.float32]
    bands: npt.NDArray[np.int64]
    trivia: npt.NDArray[np.int64]
    cleaned: npt.NDArray[np.bool_]
    quality: npt.NDArray[np.float32]
    subjects: list[str | None]
    conflict_ids: list[str | None]


def compose_shard(chosen: ChosenSamples, parameters: MixtureParameters) -> pa.Table:
    """Compose the chosen samples of a shard, in order of rank.

    Raises:
        StoreError: The shard holds other documents than those that were chosen.
    """
    unique, firsts, places = np.unique(chosen.rows, return_index=True, return_inverse=True)
    columns = read_columns(chosen.pair, unique, chosen.cleaned[firsts], parameters)
    if [columns["id"][place] for place in places.tolist()] != chosen.document_ids:
        raise StoreError(f"{chosen.pair.raw} changed while the mixture was being built; run the stage again")
    samples = _compose(chosen, columns, places.tolist(), parameters)
    values: dict[str, Any] = {
        "id": chosen.ids,
        "doc_id": chosen.document_ids,
        "group_id": chosen.group_ids,
        "source": [chosen.pair.source] * len(samples),
        "source_type": [columns["source_type"][place] for place in places.tolist()],
        "auth_weight": chosen.authority,
        "prov_entropy": chosen.entropy,
        "trivium_category": [TRIVIA[code] for code in chosen.trivia.tolist()],
        "metadata": _metadata(chosen, columns, places.tolist()),
        "prompt": [sample.prompt for sample in samples],
        "response": [sample.response for sample in samples],
        "conflict_id": chosen.conflict_ids,
        "lesson": np.zeros(len(samples), np.bool_),
        "rejected": pa.nulls(len(samples), pa.string()),
        "single": pa.nulls(len(samples), pa.string()),
        "rank": chosen.ranks,
    }
    arrays = [pa.array(values[field.name], field.type) for field in RANKED_SCHEMA]
    return pa.table(arrays, schema=RANKED_SCHEMA).take(np.argsort(chosen.ranks))


def _compose(
    chosen: ChosenSamples, columns: dict[str, list[Any]], places: list[int], p: MixtureParameters
) -> list[Sample]:
    subjects: defaultdict[int, dict[int, str]] = defaultdict(dict)
    for place, part, subject in zip(places, chosen.parts.tolist(), chosen.subjects, strict=True):
        if subject:
            subjects[place][part] = subject
    samples, last = [], -1
    for place, part, trivium in zip(places, chosen.parts.tolist(), chosen.trivia.tolist(), strict=True):
        if place != last:
            kind = (columns["source_type"][place], TRIVIA[trivium]) if p.prompts == "by_source" else None
            title, text = columns["title"][place], columns["text"][place]
            composed = compose_samples(title, text, p.piece_chars, p.max_pieces, kind, subjects[place])
            by_part = {sample.part: sample for sample in composed}
            last = place
        samples.append(by_part[part])
    return samples


def _metadata(chosen: ChosenSamples, columns: dict[str, list[Any]], places: list[int]) -> list[str]:
    descriptions = list(zip(*(columns[name] for name in DESCRIPTION), strict=True))
    qualities = [None if np.isnan(value) else round(value, 3) for value in chosen.quality.tolist()]
    described = zip(
        places, chosen.parts.tolist(), chosen.counts.tolist(), chosen.bands.tolist(), qualities, strict=True
    )
    return [
        orjson.dumps(
            {
                **dict(zip(DESCRIPTION, descriptions[place], strict=True)),
                **{"part": part, "parts": parts, "band": BANDS[band], "ocr_quality": quality},
            }
        ).decode()
        for place, part, parts, band, quality in described
    ]


def lesson_table(tables: list[pa.Table], maker: LessonMaker | None, count: int, seed: int) -> pa.Table:
    """Make the lessons of one side out of its own documents, which stay on this side with their whole group."""
    subjects, rows_of = {}, {}
    if maker is not None:
        columns = ["doc_id", "group_id", "source", "source_type", "trivium_category", "metadata"]
        wanted = min(MOST_SUBJECTS, 2 * count + FEWEST_SUBJECTS)
        fraction = min(1.0, wanted / max(1, sum(table.num_rows for table in tables)))
        for table in tables:
            seen = table.select(columns)
            hashes = keyed_hashes(f"{seed}/subject", seen.column("doc_id").to_pylist())
            for row in seen.filter(pa.array(hashes <= fraction * 2.0**64)).to_pylist():
                about = orjson.loads(row["metadata"])
                subject = subject_of(row["doc_id"], about["title"], about["year"], row["source_type"], about["author"])
                if subject and subject.document_id not in subjects:
                    subjects[subject.document_id], rows_of[subject.document_id] = subject, row
    made = maker.make(list(subjects.values()), count) if maker else []
    rows = [
        {
            **rows_of[lesson.subject.document_id],
            "id": f"{lesson.subject.document_id}#lesson-{number}",
            "auth_weight": LESSON_AUTHORITY,
            "prov_entropy": LESSON_BITS,
            "metadata": orjson.dumps(
                {
                    **{"title": lesson.subject.topic, "year": lesson.subject.year, "band": "low"},
                    **{"form": lesson.form, "ages": lesson.ages, "documents": [lesson.subject.document_id]},
                }
            ).decode(),
            "prompt": escape_control(lesson.prompt),
            "response": lesson.response,
            "lesson": True,
            "rejected": lesson.rejected,
            "single": None if lesson.single is None else escape_control(lesson.single),
            "rank": number,
        }
        for number, lesson in enumerate(made)
    ]
    return pa.Table.from_pylist(rows, schema=RANKED_SCHEMA)


def write_side(folder: Path, side: str, tables: Sequence[pa.Table], rows: int) -> list[ShardRecord]:
    """Write the ranked samples of one side in order of rank, at most `SHARD_ROWS` a shard.

    Args:
        folder: The mixture's folder.
        side: ``train`` or ``valid``.
        tables: Samples, each table in order of its column ``rank``; together every rank from 0 on once.
        rows: How many samples the side has.
    """
    ranks = [table.column("rank").to_numpy() for table in tables]

    def write(start: int) -> ShardRecord:
        bounds = (start, min(start + SHARD_ROWS, rows))
        slices = (np.searchsorted(rank, bounds).tolist() for rank in ranks)
        parts = [table.slice(low, high - low) for table, (low, high) in zip(tables, slices, strict=True)]
        # Every rank between the bounds is there once, so the shard does not depend on how the input was cut.
        shard = pa.concat_tables(parts).sort_by("rank").combine_chunks()
        turns = (USER_TURN, shard.column("prompt"), f"{ASSISTANT_MARK} ", shard.column("response"))
        shard = shard.append_column("text", pc.binary_join_element_wise(*turns, ""))
        path = folder / side / f"shard-{start // SHARD_ROWS:05d}.parquet"
        write_shard(path, shard, SAMPLE_SCHEMA)
        return record_shard(folder, path)

    with ThreadPoolExecutor(SHARDS_AT_ONCE) as threads:
        return list(threads.map(write, range(0, rows, SHARD_ROWS)))


def write_jsonl(folder: Path, records: Iterable[ShardRecord]) -> None:
    """Write the samples of a mixture's shards as JSON lines, with the metadata as an object."""
    paths = [folder / record.file for record in records]
    for side, name in JSONL_NAMES.items():
        with (folder / name).open("w", encoding="utf-8") as file:
            for path in paths:
                if path.parent.name != side:
                    continue
                for batch in iterate_rows(path, SAMPLE_SCHEMA):
                    for row in batch.to_pylist():
                        row["metadata"] = json.loads(row["metadata"])
                        file.write(json.dumps(row, ensure_ascii=False) + "\n")
