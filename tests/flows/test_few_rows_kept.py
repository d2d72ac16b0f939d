"""A query that keeps few of many rows leaves shards of what it kept."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from flows.download_corpus import download_corpus
from storage.errors import SourceUnavailable, StoreError
from storage.manifest import find_damage, read_manifest
from tasks.sources import shards

pytestmark = pytest.mark.prefect
ROWS, STEP = 4000, 250
KEPT = [str(number) for number in range(0, ROWS, STEP)]


@pytest.fixture
def parameters(tmp_path: Path, prefect_server: None) -> dict[str, Any]:
    rows = (
        {"id": str(n), "text": f"The text of row {n}, which is long enough.", "year": 1900 if n % STEP == 0 else 2000}
        for n in range(ROWS)
    )
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    catalogue = tmp_path / "catalogue.toml"
    catalogue.write_text(
        f"[old]\narchive = 'local_files'\npath = '{tmp_path / 'rows.jsonl'}'\nsource_type = 'historical_book'\n"
        "trivium = 'rhetoric'\nprior_authority = 0.1\nrows_per_item = 100\n"
        "columns = {text = 'text', id = 'id', year = 'year'}\nyear_filter = {max = 1950}\n",
        "utf-8",
    )
    return {"store": str(tmp_path / "store"), "catalogue": str(catalogue), "sources": ["old"], "patience_hours": 0.0}


def stored(parameters: dict[str, Any]) -> list[list[str]]:
    """Return the ids of every shard of the sealed source."""
    folder = Path(parameters["store"]) / "raw" / "old"
    manifest = read_manifest(folder)
    assert manifest is not None and find_damage(folder, manifest, hashes=True) == []
    found = [pq.read_table(folder / shard.file).column("id").to_pylist() for shard in manifest.shards]
    return [[id.removeprefix("old:") for id in ids] for ids in found]


async def test_few_rows_make_one_shard(parameters: dict[str, Any]) -> None:
    (source,) = (await download_corpus(**parameters)).sources
    assert stored(parameters) == [KEPT]
    assert (source.documents, source.rejects) == (len(KEPT), ROWS - len(KEPT))
    assert (await download_corpus(**parameters)).sources[0].reused


@pytest.mark.parametrize(("enough", "most"), [(1000, 900), (5, 100_000)])
async def test_shards_end_where_an_interruption_would_cost_too_much(
    parameters: dict[str, Any], monkeypatch: pytest.MonkeyPatch, enough: int, most: int
) -> None:
    monkeypatch.setattr("tasks.acquisition.items_per_shard", lambda spec: 1)
    monkeypatch.setattr(shards, "ENOUGH_DOCUMENTS", enough)
    monkeypatch.setattr(shards, "MOST_ROWS", most)
    await download_corpus(**parameters, max_samples=12)
    few = stored(parameters)
    assert [*chain(*few)] == KEPT[:12]
    assert all(few)
    folder = Path(parameters["store"]) / "raw" / "old"
    written = {path.name: path.stat().st_mtime_ns for path in folder.glob("shard-*.parquet")}
    await download_corpus(**parameters, max_samples=1000)
    assert [*chain(*stored(parameters))] == KEPT
    # A larger request keeps the shards of the smaller one but the last, which that one cut short.
    same = [name for name, time in written.items() if (folder / name).stat().st_mtime_ns == time]
    assert sorted(same) == sorted(written)[:-1]


async def test_a_shard_in_the_middle_that_was_lost_is_fetched_alone(
    parameters: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.acquisition.items_per_shard", lambda spec: 1)
    monkeypatch.setattr(shards, "ENOUGH_DOCUMENTS", 5)
    await download_corpus(**parameters)
    before = stored(parameters)
    assert [len(ids) for ids in before] == [5, 5, 5, 1]
    folder = Path(parameters["store"]) / "raw" / "old"
    written = {path.name: path.stat().st_mtime_ns for path in folder.glob("shard-*.parquet")}
    (folder / "shard-00001.parquet").unlink()
    (folder / "manifest.json").unlink()
    await download_corpus(**parameters)
    assert stored(parameters) == before
    changed = [name for name, time in written.items() if (folder / name).stat().st_mtime_ns != time]
    assert changed == ["shard-00001.parquet"]


async def test_a_plan_that_was_cut_anew_before_the_process_died_is_taken_up(
    parameters: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.acquisition.items_per_shard", lambda spec: 1)
    monkeypatch.setattr(shards, "ENOUGH_DOCUMENTS", 5)

    def die(*arguments: Any) -> None:
        raise StoreError("the disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(shards, "write_rejects", die)  # right after the plan was cut anew, before the shard appears
        with pytest.raises(SourceUnavailable, match="the disk is full"):
            await download_corpus(**parameters)
    await download_corpus(**parameters)
    assert [len(ids) for ids in stored(parameters)] == [5, 5, 5, 1]
    assert [*chain(*stored(parameters))] == KEPT
