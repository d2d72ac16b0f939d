"""A corpus downloaded by subjects: old and new sources meet on them, from the archives over HTTP to the mixture."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flows.rebalance_corpus import rebalance_corpus
from flows.score_corpus import score_corpus
from sandbox.__main__ import BUNDLED_DOCUMENTS
from sandbox.archives import DocumentFolder, SandboxArchives, write_catalogue
from storage.manifest import read_manifest
from tasks.sources.subject_list import read_subjects

pytestmark = pytest.mark.prefect

SUBJECTS = """\
# Things of the sandbox's world that old and new voices write about.
veldrite
brannel metal
Corwen spring   # a spring, not a season
Lake Orrin
Mount Tessel
comet Aldane
harbor cough
Selwick apples
Port Sable
Thule Sound
Lorne flood
pale copper
comets
quinine
the slave trade
unicorns
"""


SOURCES = {
    "classical_philosophy": "search",
    "internet_archive_books": "search",
    "historical_speeches": "search",
    "historical_newspapers": "search",
    "us_patents": "rows",
    "wikipedia": "rows",
    "news_summaries": "rows",
    "scientific_papers": "no",
}


@pytest.fixture
async def store(tmp_path: Path, prefect_server: None) -> Path:
    """A store for which the sandbox's archives were asked for the subjects by the command that a user types."""
    subjects, catalogue, store = tmp_path / "subjects.txt", tmp_path / "sandbox.toml", tmp_path / "store"
    subjects.write_text(SUBJECTS, "utf-8")
    options = {"store": store, "catalogue": catalogue, "subjects": subjects, "rate-limit": 1000}
    options["sources"] = ",".join(SOURCES)
    words = [f"--{name}={value}" for name, value in options.items()]
    async with SandboxArchives(DocumentFolder(BUNDLED_DOCUMENTS)) as archives:
        write_catalogue(catalogue, archives.summaries)
        environment = {"HF_HOME": str(tmp_path / "home"), "DISTRUST_BLOCKS": "none-saved"}
        command = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "flows", "download-corpus", *words),
            env=os.environ | archives.environment | environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        told = (await command.communicate())[0].decode()
    assert command.returncode == 0, told
    return store


async def test_old_and_new_sources_meet_on_the_subjects(store: Path) -> None:
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
