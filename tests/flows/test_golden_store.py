"""A store that an earlier version wrote is read, and the stages go on from it (tests/golden/store)."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from flows.rebalance_corpus import rebalance_corpus
from flows.score_corpus import score_corpus
from storage.layout import Layout
from storage.manifest import find_damage, require_manifest
from storage.parquet import read_shard
from storage.schemas import RAW_SCHEMA, REJECT_SCHEMA, SAMPLE_SCHEMA, SCORED_SCHEMA
from storage.shard_plan import read_plan

GOLDEN = Path(__file__).parent.parent / "golden" / "store"
SOURCES = ["lab_notes", "old_patents", "preprints", "press"]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    shutil.copytree(GOLDEN, tmp_path / "store")
    return tmp_path / "store"


def test_an_earlier_store_is_whole_and_its_shards_are_readable() -> None:
    layout = Layout(GOLDEN)
    assert layout.completed("raw") == layout.completed("scored") == SOURCES
    for source in SOURCES:
        plan = read_plan(layout.raw(source))
        assert plan is not None and all(shard.is_whole(layout.raw(source)) for shard in plan.shards)
        assert read_shard(layout.raw(source) / plan.shards[0].rejects_file, REJECT_SCHEMA).num_rows == 0
    folders = {layout.raw(source): RAW_SCHEMA for source in SOURCES}
    folders |= {layout.scored(source): SCORED_SCHEMA for source in SOURCES}
    for folder, schema in (folders | {layout.balanced("golden"): SAMPLE_SCHEMA}).items():
        manifest = require_manifest(folder, "")
        assert find_damage(folder, manifest, hashes=True) == []
        assert [read_shard(folder / shard.file, schema).num_rows for shard in manifest.shards] == [
            shard.rows for shard in manifest.shards
        ]


@pytest.mark.prefect
async def test_the_stages_take_an_earlier_store_up_where_it_stopped(store: Path, prefect_server: None) -> None:
    shutil.rmtree(store / "scored" / "press")
    scores = await score_corpus(store=str(store), run_year=2026)  # an earlier version's scores are made again
    assert [source.rows for source in scores.sources] == [12, 12, 12, 12]
    assert {path.name for path in (store / "scored").iterdir() if path.is_dir()} == set(SOURCES)
    mixture = await rebalance_corpus(store=str(store), mixture="golden", accept_imbalance=True)
    assert not mixture.reused and mixture.counts["documents"] == 48
