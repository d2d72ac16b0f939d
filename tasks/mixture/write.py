"""Write the sides of a mixture: Parquet shards in order of rank, and JSON lines on request."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa

from storage.manifest import ShardRecord, record_shard
from storage.parquet import iterate_rows, write_shard
from storage.schemas import SAMPLE_SCHEMA

KIND = "balanced"
METADATA = "metadata.json"
MIXTURE_LAYOUT = 2
"""Goes up when equal parameters mean another mixture or `METADATA` tells more, so that older ones are drawn again."""
SHARD_ROWS = 20_000
SHARDS_AT_ONCE = 2
"""Shards compressed at a time."""
JSONL_NAMES = {"train": "train.jsonl", "valid": "val.jsonl"}


def write_side(folder: Path, side: str, tables: Sequence[pa.Table], first_rank: int, rows: int) -> list[ShardRecord]:
    """Write the ranked samples of one side in order of rank, at most `SHARD_ROWS` a shard.

    Args:
        folder: The mixture's folder.
        side: ``train`` or ``valid``.
        tables: Samples, each table in order of its column ``rank``; together every rank once.
        first_rank: The side's first rank.
        rows: How many samples the side has.
    """
    ranks = [table.column("rank").to_numpy() for table in tables]

    def write(start: int) -> ShardRecord:
        bounds = (first_rank + start, first_rank + min(start + SHARD_ROWS, rows))
        slices = (np.searchsorted(rank, bounds).tolist() for rank in ranks)
        parts = [table.slice(low, high - low) for table, (low, high) in zip(tables, slices, strict=True)]
        # Every rank between the bounds is there once, so the shard does not depend on how the input was cut.
        shard = pa.concat_tables(parts).sort_by("rank").drop_columns("rank").combine_chunks()
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
