"""A corpus downloaded by subjects: old and new sources meet on them, from the archives over HTTP to the mixture."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from flows.rebalance_corpus import rebalance_corpus
from flows.score_corpus import score_corpus
from sandbox.__main__ import BUNDLED_DOCUMENTS
from sandbox.archives import DocumentFolder, SandboxArchives, write_catalogue
from storage.manifest import read_manifest

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


@pytest.fixture
async def store(tmp_path: Path, prefect_server: None) -> Path:
    """A store for which the sandbox's archives were asked for the subjects by the command that a user types."""
    subjects, catalogue, store = tmp_path / "subjects.txt", tmp_path / "sandbox.toml", tmp_path / "store"
    subjects.write_text(SUBJECTS, "utf-8")
    options = {"store": store, "catalogue": catalogue, "subjects": subjects, "rate-limit": 1000}
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


def rows_of(folder: Path) -> list[dict[str, Any]]:
    manifest = read_manifest(folder)
    assert manifest is not None
    rows = [row for shard in manifest.shards for row in pq.read_table(folder / shard.file).to_pylist()]
    return [row | {"extra": json.loads(row["extra"])} for row in rows]


async def test_old_and_new_sources_meet_on_the_subjects(store: Path) -> None:
    asked: dict[str, Counter[str]] = {}
    for folder in sorted((store / "raw").glob("[a-z]*")):
        asked[folder.name] = Counter(row["extra"].get("asked_for") for row in rows_of(folder))
        print(folder.name, asked[folder.name])
    await score_corpus(store=str(store))
    await rebalance_corpus(store=str(store), accept_imbalance=True)
    report = json.loads((store / "balanced" / "default" / "metadata.json").read_text("utf-8"))
    print(report["conflicts"], report["sources"])
    assert report["conflicts"]["share"] >= 0.3
