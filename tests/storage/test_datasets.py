"""Shards, plans and manifests together: what "finished" means."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.errors import StoreError
from storage.manifest import (
    Manifest,
    MixtureNotes,
    SourceNotes,
    digest_of,
    find_damage,
    read_manifest,
    record_shard,
    require_manifest,
    write_manifest,
)
from storage.parquet import ROW_GROUP_ROWS, iterate_rows, read_shard, read_tags, write_shard
from storage.schemas import RAW_SCHEMA, REJECT_SCHEMA
from storage.shard_plan import (
    CUT_SHORT,
    PLAN,
    SHARD_KEY,
    Item,
    ShardSpec,
    extend_plan,
    make_plan,
    read_plan,
    set_aside_unplanned,
    write_plan,
)
from storage.vocabulary import band_of


def rows(count: int, **changes: Any) -> pa.Table:
    row = dict.fromkeys(RAW_SCHEMA.names, None) | dict.fromkeys(("source", "source_type", "year_evidence"), "s")
    row |= {"year": -400, "text": "text", "sha256": "0", "fetched_at": datetime(2026, 1, 1, tzinfo=UTC), "extra": "{}"}
    row |= changes
    return pa.Table.from_pylist([row | {"id": f"s:{n}"} for n in range(count)], schema=pa.schema(list(RAW_SCHEMA)))


def test_a_shard_keeps_schema_rows_tags_and_compression(tmp_path: Path) -> None:
    path = tmp_path / "shard-00000.parquet"
    write_shard(path, rows(2500), RAW_SCHEMA, {SHARD_KEY: "k"})
    assert read_tags(path) == {SHARD_KEY: "k"}
    table = read_shard(path, RAW_SCHEMA)
    assert table.num_rows == 2500 and table.schema.equals(RAW_SCHEMA)
    assert table.column("year")[0].as_py() == -400
    metadata = pq.read_metadata(path)
    assert metadata.row_group(0).column(0).compression == "ZSTD"
    assert metadata.num_row_groups == 3
    assert sum(batch.num_rows for batch in iterate_rows(path, RAW_SCHEMA)) == 2500


def test_a_null_in_a_required_column_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="text"):
        write_shard(tmp_path / "s.parquet", rows(1, text=None), RAW_SCHEMA)
    assert list(tmp_path.iterdir()) == []


def test_a_torn_shard_is_named(tmp_path: Path) -> None:
    path = tmp_path / "s.parquet"
    write_shard(path, rows(10), RAW_SCHEMA)
    path.write_bytes(path.read_bytes()[:-20])
    for read in (read_shard, lambda *arguments: list(iterate_rows(*arguments))):
        with pytest.raises(StoreError, match=r"s\.parquet.*delete it"):
            read(path, RAW_SCHEMA)
    assert read_tags(path) == {}


def test_a_manifest_knows_its_inputs_and_finds_damage(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None
    with pytest.raises(StoreError, match="run the stage before"):
        require_manifest(tmp_path, "run the stage before")
    path = tmp_path / "shard-00000.parquet"
    write_shard(path, rows(3), RAW_SCHEMA)
    manifest = Manifest(
        kind="raw", name="s", inputs={"a": "1"}, parameters={"x": 1}, shards=[record_shard(tmp_path, path)]
    )
    write_manifest(tmp_path, manifest)
    again = require_manifest(tmp_path, "")
    assert again == manifest and again.rows == 3 and again.digest == manifest.digest
    assert again.made_from({"a": "1"}, {"x": 1})
    assert not again.made_from({"a": "2"}, {"x": 1})
    assert not again.made_from({"a": "1"}, {"x": 2})
    assert find_damage(tmp_path, again, hashes=True) == []
    data = bytearray(path.read_bytes())
    data[10] ^= 1
    path.write_bytes(bytes(data))
    assert find_damage(tmp_path, again) == []
    assert find_damage(tmp_path, again, hashes=True) == ["shard-00000.parquet"]
    path.unlink()
    assert find_damage(tmp_path, again) == ["shard-00000.parquet"]


def test_the_digest_ignores_when_but_not_what() -> None:
    one = Manifest(kind="raw", name="s", shards=[])
    two = Manifest(kind="raw", name="s", shards=[], created_at=datetime(2020, 1, 1, tzinfo=UTC))
    assert one.digest == two.digest
    assert one.digest != Manifest(kind="raw", name="t", shards=[]).digest
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})


def test_a_damaged_manifest_is_an_error_not_an_absence(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(StoreError, match=r"manifest\.json"):
        read_manifest(tmp_path)
    assert (
        Manifest(kind="raw", name="s", shards=[], notes={"trivium": "logic"}).notes_as(SourceNotes).trivium == "logic"
    )
    with pytest.raises(StoreError, match=r"balanced/s is damaged \(verdict: .*run the stage again"):
        Manifest(kind="balanced", name="s", shards=[], notes={"verdict": 7}).notes_as(MixtureNotes)


def items(*names: str) -> list[Item]:
    return [Item(native_id=name) for name in names]


def finish(folder: Path, plan: Any, index: int, **tags: str) -> None:
    shard = plan.shards[index]
    write_shard(folder / shard.rejects_file, REJECT_SCHEMA.empty_table(), REJECT_SCHEMA)
    write_shard(folder / shard.file, rows(1), RAW_SCHEMA, {SHARD_KEY: shard.key, **tags})


def test_a_plan_is_frozen_and_finds_its_finished_shards(tmp_path: Path) -> None:
    plan = make_plan("s", "request", items("a", "b", "c"), 2)
    assert [[item.native_id for item in shard.items] for shard in plan.shards] == [["a", "b"], ["c"]]
    write_plan(tmp_path, plan)
    frozen = read_plan(tmp_path)
    assert frozen is not None
    assert (frozen.source, frozen.request, frozen.items) == ("s", "request", 3)
    assert list(frozen.shards) == list(plan.shards)
    finish(tmp_path, plan, 0)
    assert [shard.is_finished(tmp_path) for shard in plan.shards] == [True, False]
    other = make_plan("s", "request", items("a", "x", "c"), 2)
    assert not other.shards[0].is_finished(tmp_path)


def test_a_frozen_plan_is_read_in_any_order_over_several_row_groups(tmp_path: Path) -> None:
    names = [f"n{number}" for number in range(2 * ROW_GROUP_ROWS + 5)]
    write_plan(tmp_path, make_plan("s", "r", items(*names), 1))
    plan = read_plan(tmp_path)
    assert plan is not None and len(plan.shards) == plan.items == len(names)
    assert [shard.items[0].native_id for shard in plan.shards] == names
    for index in (len(names) - 1, 0, ROW_GROUP_ROWS, ROW_GROUP_ROWS - 1):
        assert (plan.shards[index].index, plan.shards[index].items) == (index, items(names[index]))
    assert [shard.index for shard in plan.shards[3:6]] == [3, 4, 5]
    with pytest.raises(IndexError):
        plan.shards[len(names)]


def test_new_items_come_in_new_shards(tmp_path: Path) -> None:
    write_plan(tmp_path, make_plan("s", "r", items("a", "b", "c"), 2))
    plan = read_plan(tmp_path)
    assert plan is not None
    longer = write_plan(tmp_path, extend_plan(plan, items("d", "e", "f"), 2, 7))
    assert ["".join(item.native_id for item in shard.items) for shard in longer.shards] == ["ab", "c", "de", "f"]
    assert ([shard.index for shard in longer.shards], longer.items) == ([0, 1, 2, 3], 6)
    assert (plan.wanted, longer.wanted) == (0, 7), "a later run without refresh must not seal fewer documents"


def test_the_key_of_a_shard_is_its_items_digest_whatever_wrote_it() -> None:
    item = Item("ä", "u", {"rows": 3})
    assert ShardSpec.of(0, [item]).key == digest_of([{"native_id": "ä", "url": "u", "data": {"rows": 3}}])


def test_a_damaged_plan_says_what_to_do(tmp_path: Path) -> None:
    write_plan(tmp_path, make_plan("s", "r", items("a"), 1))
    whole = (tmp_path / PLAN).read_bytes()
    (tmp_path / PLAN).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StoreError, match="delete it to plan this source again"):
        read_plan(tmp_path)
    with pytest.raises(StoreError, match="delete it to plan again"):
        ShardSpec(0, '[{"id": 1}]', 1).items  # noqa: B018


def test_a_larger_request_keeps_the_shards_it_shares_and_loses_nothing(tmp_path: Path) -> None:
    folder, aside = tmp_path / "raw", tmp_path / "aside"
    folder.mkdir()
    small = make_plan("s", "small", items("a", "b", "c", "d"), 2)
    write_plan(folder, small)
    finish(folder, small, 0)
    finish(folder, small, 1, **{CUT_SHORT: "1"})
    large = make_plan("s", "large", items("a", "b", "c", "d", "e"), 2)
    assert set_aside_unplanned(folder, large, aside) == 2
    assert [shard.is_finished(folder) for shard in large.shards] == [True, False, False]
    assert {path.name for path in aside.iterdir()} == {"plan.parquet", "rejects-00001.parquet", "shard-00001.parquet"}


def test_bands_have_the_guides_borders() -> None:
    assert [band_of(weight) for weight in (0.0, 0.2999)] == ["low", "low"]
    assert [band_of(weight) for weight in (0.3, 0.7)] == ["medium", "medium"]
    assert [band_of(weight) for weight in (0.7001, 0.99)] == ["high", "high"]
