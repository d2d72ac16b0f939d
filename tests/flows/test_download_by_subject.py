"""A corpus downloaded by subjects: old and new sources meet on them, from the archives over HTTP to the mixture."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flows.rebalance_corpus import rebalance_corpus
from flows.score_corpus import score_corpus
from storage.manifest import read_manifest
from tasks.sources.subject_list import read_subjects
from tests.flows.asked_by_subject import SOURCES, download_by_subject

pytestmark = pytest.mark.prefect


async def test_old_and_new_sources_meet_on_the_subjects(tmp_path: Path, prefect_server: None) -> None:
    store = await download_by_subject(tmp_path)
    listed = read_subjects(str(store.parent / "subjects.txt"))
    for name, way in SOURCES.items():
        manifest = read_manifest(store / "raw" / name)
        assert manifest is not None
        rows = [
            row for shard in manifest.shards for row in pq.read_table(store / "raw" / name / shard.file).to_pylist()
        ]
        asked = Counter(json.loads(row["extra"]).get("asked_for") for row in rows)
        if way == "no":
            assert asked == {None: 100}
            continue
        assert asked and set(asked) <= set(listed) and max(asked.values()) <= 10
        for row in rows:
            words = json.loads(row["extra"])["asked_for"].lower().removesuffix("s")
            assert words in f"{row['title']} {row['text']}".lower(), (name, row["title"])
        if way == "search":
            assert "unicorns" in manifest.notes["listing"] or "..." in manifest.notes["listing"]
    await score_corpus(store=str(store))
    await rebalance_corpus(store=str(store))
    conflicts = json.loads((store / "balanced" / "default" / "metadata.json").read_text("utf-8"))["conflicts"]
    assert conflicts["share"] >= 0.3 and min(conflicts["bands"]["low"], conflicts["bands"]["high"]) >= 10
