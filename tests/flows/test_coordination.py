"""Scoring counts copies over the whole store, shows them, and loses nothing when it is killed in the midst."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest

from flows.score_corpus import score_corpus
from storage.layout import Layout
from storage.manifest import Manifest, record_shard, write_manifest
from storage.parquet import read_component, write_shard
from storage.schemas import RAW_SCHEMA
from tests.flows import newest_artifact
from tests.tasks.signals.raw_documents import raw_table
from tests.tasks.signals.test_coordination import NAMES, Document, printed, story

FINGERPRINT = """
import asyncio, sys
from storage.layout import Layout
from tasks.coordination import fingerprint_shards, plan_count
count = plan_count(Layout.of(sys.argv[1]))
while True:
    for source in count.sources:
        for shard in source.shards:
            (source.folder / shard.file).unlink(missing_ok=True)
            asyncio.run(fingerprint_shards.fn(source.raw, source.folder, [shard]))
"""
"""The pass without end, so that a kill always falls into it."""


KIND = "historical_newspaper"


def fields(document: Document) -> Document:
    return {name: value for name, value in document.items() if name != "text"}


def write_raw(store: Path, source: str, documents: list[Document], per_shard: int = 10) -> None:
    folder, shards = Layout(store).raw(source), []
    for number in range(0, len(documents), per_shard):
        tables = [
            raw_table(
                [doc["text"]], **{"id": f"{source}:{number + n}", "source": source, "source_type": KIND} | fields(doc)
            )
            for n, doc in enumerate(documents[number : number + per_shard])
        ]
        path = folder / f"shard-{number // per_shard:05d}.parquet"
        write_shard(path, pa.concat_tables(tables), RAW_SCHEMA)
        shards.append(record_shard(folder, path))
    write_manifest(folder, Manifest(kind="raw", name=source, shards=shards, notes={"trivium": "rhetoric"}))


@pytest.fixture
def store(tmp_path: Path, prefect_server: None) -> Path:
    """A wire story in forty papers of two sources, a gazette that prints its own story forty times, and other texts."""
    wire, own = printed(story(1), NAMES), printed(story(2), ["gazette"] * 40)
    write_raw(tmp_path / "store", "papers", [*wire[:30], *({"text": story(n), "year": 1942} for n in range(50, 60))])
    write_raw(tmp_path / "store", "more_papers", wire[30:])
    write_raw(tmp_path / "store", "gazette", own)
    return tmp_path / "store"


def outlets(store: Path, source: str) -> list[int | None]:
    return [
        count
        for shard in sorted((store / "scored" / source).glob("shard-*"))
        for count in read_component(shard, "n_outlets").to_pylist()
    ]


def scores(store: Path) -> dict[str, str]:
    files = sorted((store / "scored").rglob("shard-*"))
    return {str(file.relative_to(store)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.mark.prefect
async def test_a_wire_story_is_told_explained_and_follows_the_store(store: Path) -> None:
    result = await score_corpus(store=str(store))
    assert outlets(store, "papers") == [40] * 30 + [1] * 10
    assert (outlets(store, "more_papers"), outlets(store, "gazette")) == ([40] * 10, [1] * 40)
    bands = {source.source: (source.low, source.high, source.copied) for source in result.sources}
    assert bands == {"papers": (10, 30, 30), "more_papers": (0, 10, 10), "gazette": (40, 0, 0)}
    assert "  40 whose words stand in several outlets of about the same time" in result.summary()
    table = json.loads((await newest_artifact("scores")).data)
    assert {row["source"]: row["in several outlets"] for row in table}["papers"] == 30
    told = "\n".join((await score_corpus(store=str(store), explain="papers:3")).explanation)
    assert "the same words in 40 outlets of about the same time, coordination 0.83" in told
    told = "\n".join((await score_corpus(store=str(store), explain="gazette:3")).explanation)
    assert "copies       none in other outlets" in told

    before = {file: file.stat().st_mtime_ns for file in store.rglob("*.parquet")}
    assert await score_corpus(store=str(store)) == result
    assert {file: file.stat().st_mtime_ns for file in store.rglob("*.parquet")} == before, "nothing is done twice"
    (store / "raw" / "more_papers" / "manifest.json").unlink()  # its ten papers are no longer there
    await score_corpus(store=str(store), sources=["papers", "gazette"])
    assert outlets(store, "papers") == [30] * 30 + [1] * 10
    changed = {file for file, time in before.items() if file.exists() and file.stat().st_mtime_ns != time}
    assert not {file for file in changed if "scored/gazette/shard" in str(file)}, "its copies are the same"
    assert not (store / "coordination" / "more_papers" / "shard-00000.parquet").exists()

    result = await score_corpus(store=str(store), sources=["papers"], coordination=False)
    assert outlets(store, "papers") == [None] * 40 and result.sources[0].low == 40


@pytest.mark.prefect
async def test_a_pass_that_is_killed_goes_on_and_makes_the_same_rows(store: Path) -> None:
    files = store / "coordination"
    child = subprocess.Popen([sys.executable, "-c", FINGERPRINT, str(store)])
    deadline = time.monotonic() + 60
    while len(list(files.rglob("shard-*.parquet"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    kept = {file: file.stat().st_mtime_ns for file in files.rglob("shard-*.parquet") if not file.name.startswith(".")}
    assert kept
    await score_corpus(store=str(store))
    assert {file: file.stat().st_mtime_ns for file in kept} == kept, "what was finished is left alone"
    assert not list(files.rglob(".*.parquet"))
    first = scores(store)
    for file in [*files.rglob("*.parquet"), files / "manifest.json", *(store / "scored").rglob("*.*")]:
        file.unlink()
    await score_corpus(store=str(store))
    assert scores(store) == first
