"""Write the sides of a mixture: Parquet shards in order of rank, and JSON lines on request."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from storage.manifest import ShardRecord, record_shard
from storage.parquet import iterate_rows, write_shard
from storage.schemas import SAMPLE_SCHEMA

KIND = "balanced"
METADATA = "metadata.json"
SHARD_ROWS = 20_000
JSONL_NAMES = {"train": "train.jsonl", "valid": "val.jsonl"}


def write_side(folder: Path, side: str, tables: Sequence[pa.Table], first_rank: int, rows: int) -> list[ShardRecord]:
    """Write the ranked samples of one side in order of rank, at most `SHARD_ROWS` a shard."""
    records = []
    for index, start in enumerate(range(0, rows, SHARD_ROWS)):
        low, high = first_rank + start, first_rank + min(start + SHARD_ROWS, rows)
        parts = []
        for table in tables:
            rank = table.column("rank")
            parts.append(table.filter(pc.and_(pc.greater_equal(rank, low), pc.less(rank, high))))
        # Every rank from low to high is there once, so the shard does not depend on how the input was cut.
        shard = pa.concat_tables(parts).sort_by("rank").drop_columns("rank").combine_chunks()
        path = folder / side / f"shard-{index:05d}.parquet"
        write_shard(path, shard, SAMPLE_SCHEMA)
        records.append(record_shard(folder, path))
    return records


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
