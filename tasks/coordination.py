"""Coordination as Prefect sees it: fingerprints of all shards of a store, then one task that counts the copies."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from prefect import task

from storage.atomic import remove
from storage.layout import Layout
from storage.manifest import (
    Manifest,
    ShardRecord,
    digest_of,
    find_damage,
    read_manifest,
    record_shard,
    write_manifest,
)
from storage.parquet import MADE_FROM, is_made_from, read_shard, write_shard
from storage.schemas import OUTLETS_SCHEMA
from storage.shingles import Indices
from tasks.policies import LOCAL_WORK, run_logger
from tasks.signals.coordination import count_outlets, fingerprint_shard

LAYOUT = 1
"""Goes up with every change of what is fingerprinted or counted."""
OUTLETS = "outlets.parquet"

Outlets = Mapping[str, Indices]
"""By shard of a source, (documents, 2): the row and the number of outlets of each document that stands in several."""


@dataclass(frozen=True)
class Fingerprinted:
    """A source whose documents are fingerprinted: where they are, and where the fingerprints go."""

    source: str
    raw: Path
    folder: Path
    digest: str
    shards: tuple[ShardRecord, ...]

    @property
    def files(self) -> list[Path]:
        """The files of fingerprints, one a shard."""
        return [self.folder / shard.file for shard in self.shards]


@dataclass(frozen=True)
class Count:
    """One count over a store."""

    folder: Path
    sources: tuple[Fingerprinted, ...]

    @property
    def inputs(self) -> dict[str, str]:
        """What is counted."""
        return {f"raw/{source.source}": source.digest for source in self.sources}

    def finished(self) -> bool:
        """Tell whether the present documents were counted."""
        manifest = read_manifest(self.folder)
        return (
            manifest is not None
            and manifest.made_from(self.inputs, {"layout": LAYOUT})
            and not find_damage(self.folder, manifest, hashes=True)
        )

    def outlets_of(self, source: str) -> Outlets:
        """Read what was counted of a source; nothing of one that was not downloaded."""
        if f"raw/{source}" not in self.inputs:
            return {}
        table = read_shard(self.folder / source / OUTLETS, OUTLETS_SCHEMA)
        rows = np.stack([np.asarray(table.column(name), np.int64) for name in ("row", "n_outlets")], axis=1)
        shards = np.array(table.column("shard").to_pylist(), np.str_)
        return {str(name): rows[shards == name] for name in np.unique(shards)}


def plan_count(layout: Layout) -> Count:
    """Find every downloaded source of a store: a story may be copied in one that is not scored now."""
    sources = []
    for source in layout.completed("raw"):
        if (documents := read_manifest(layout.raw(source))) is not None:
            folder = layout.coordination(source)
            sources.append(Fingerprinted(source, layout.raw(source), folder, documents.digest, tuple(documents.shards)))
    return Count(layout.coordination(), tuple(sources))


@task(task_run_name="fingerprint-{folder.name}", **LOCAL_WORK)
async def fingerprint_shards(raw: Path, folder: Path, shards: Sequence[ShardRecord]) -> None:
    """Fingerprint the documents of some shards; those that were before an interruption are left alone."""
    for shard in shards:
        path, made_from = folder / shard.file, digest_of({"shard": shard.sha256, "layout": LAYOUT})
        if not is_made_from(path, made_from):
            await asyncio.to_thread(fingerprint_shard, raw / shard.file, path, {MADE_FROM: made_from})


@task(task_run_name="count-copies", **LOCAL_WORK)
async def count_copies(count: Count) -> None:
    """Count in how many outlets each document stands, and seal the result."""
    await asyncio.to_thread(_count, count)


def _count(count: Count) -> None:
    found = iter(count_outlets([file for source in count.sources for file in source.files]))
    records, copied = [], 0
    for source in count.sources:
        tables = [OUTLETS_SCHEMA.empty_table()]
        for shard in source.shards:
            rows = next(found)
            columns: list[Any] = [[shard.file] * len(rows), rows[:, 0], rows[:, 1]]
            tables.append(pa.table(columns, names=OUTLETS_SCHEMA.names).cast(OUTLETS_SCHEMA))
        table = pa.concat_tables(tables)
        copied += table.num_rows
        write_shard(source.folder / OUTLETS, table, OUTLETS_SCHEMA)
        records.append(record_shard(count.folder, source.folder / OUTLETS))
    known = {path for source in count.sources for path in (*source.files, source.folder / OUTLETS)}
    for path in set(count.folder.rglob("*.parquet")) - known:
        remove(path)  # of documents that are gone
    write_manifest(
        count.folder,
        Manifest(
            kind="coordination",
            name="corpus",
            inputs=count.inputs,
            parameters={"layout": LAYOUT},
            shards=records,
            counts={"copied": copied},
        ),
    )
    run_logger().info("%d documents stand in several outlets at about the same time", copied)
