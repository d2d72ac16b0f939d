from __future__ import annotations

from pathlib import Path

import pytest

from tasks.sources.hub_stream import RECENT, Position, Positions, digest_row

IDENTITY = {"repo": "org/ds", "revision": "a" * 40, "columns": ("text",)}


def rows_before(positions: Positions, row: int) -> list[int]:
    return [position.row for position in positions.before(row)]


def test_positions_outlive_their_process_and_belong_to_one_stream(tmp_path: Path) -> None:
    first = Positions(tmp_path / "new", IDENTITY)
    for row in (30, 10, 20):
        first.save(Position(row, {"shard": row}, "digest"))
    second = Positions(tmp_path / "new", IDENTITY)
    assert list(second.before(25)) == [Position(20, {"shard": 20}, "digest"), Position(10, {"shard": 10}, "digest")]
    second.forget(20)
    assert rows_before(Positions(tmp_path / "new", IDENTITY), 99) == [30, 10]
    assert rows_before(Positions(tmp_path / "new", {**IDENTITY, "revision": "b" * 40}), 99) == []
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("content", ["", "[]", '{"identity": 1}', "\ud800"])
def test_a_broken_position_is_left_out(tmp_path: Path, content: str) -> None:
    (tmp_path / "position-000000000005.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    assert rows_before(Positions(tmp_path, IDENTITY), 99) == []


def test_old_positions_thin_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.sources.hub_stream.SPARSE_ROWS", 100)
    positions = Positions(tmp_path, IDENTITY)
    for row in range(10, 500, 10):
        positions.save(Position(row, {}, ""))
    kept = rows_before(positions, 1000)
    assert kept[:RECENT] == list(range(490, 490 - 10 * RECENT, -10))
    assert kept[RECENT:] == [100, 10]


def test_a_full_disk_costs_only_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("no folder", "utf-8")
    positions = Positions(tmp_path / "file" / "below", IDENTITY)
    positions.save(Position(5, {}, ""))
    assert rows_before(positions, 9) == []
    assert "is not saved" in caplog.text


def test_a_digest_tells_rows_apart() -> None:
    assert digest_row({"a": 1, "b": "\ud800"}) == digest_row({"b": "\ud800", "a": 1})
    assert digest_row({"a": 1}) != digest_row({"a": "1"})
