"""How shards are shared out to scoring tasks."""

from __future__ import annotations

import asyncio
import itertools
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect import flow
from prefect.client.orchestration import get_client

from storage.manifest import Manifest, ShardRecord, write_manifest
from storage.parquet import write_shard
from storage.schemas import RAW_SCHEMA
from tasks.scoring import TASK_BYTES, Scoring, score_shards, share_out


def shard(index: int, size: int) -> ShardRecord:
    return ShardRecord(file=f"shard-{index:05d}.parquet", rows=1, bytes=size, sha256="0" * 64)


@given(st.lists(st.integers(0, 3 * TASK_BYTES), max_size=40))
def test_every_shard_goes_to_one_task_in_order_and_no_task_is_too_large(sizes: list[int]) -> None:
    shards = [shard(index, size) for index, size in enumerate(sizes)]
    shares = share_out(shards)
    assert [one for share in shares for one in share] == shards
    assert all(len(share) == 1 or sum(one.bytes for one in share) <= TASK_BYTES for share in shares)
    # No two neighbours would have fitted into one task.
    assert all(
        sum(one.bytes for one in left) + right[0].bytes > TASK_BYTES for left, right in itertools.pairwise(shares)
    )


@pytest.mark.usefixtures("prefect_server")
async def test_a_task_is_named_after_its_shards(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    shards = [shard(0, 1), shard(1, 1), shard(2, 1)]
    for one in shards:
        write_shard(raw / one.file, RAW_SCHEMA.empty_table(), RAW_SCHEMA)
    write_manifest(raw, Manifest(kind="raw", name="books", shards=shards))
    scoring = Scoring("books", raw, tmp_path / "scored", "0" * 64, "logic", 2026)

    @flow
    async def score() -> list[list[ShardRecord]]:
        return [await score_shards(scoring, shards[:1]), await score_shards(scoring, shards[1:])]

    first, rest = await score()
    assert [one.file for one in first + rest] == [one.file for one in shards]
    wanted, names = {"score-books-shard-00000", "score-books-shard-00001-to-00002"}, set[str]()
    deadline = time.monotonic() + 30  # the server takes events in batches
    async with get_client() as client:
        while not wanted <= names and time.monotonic() < deadline:
            names = {run.name for run in await client.read_task_runs()}
            await asyncio.sleep(0.2)
    assert wanted <= names
