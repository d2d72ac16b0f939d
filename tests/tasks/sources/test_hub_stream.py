from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from tasks.sources.hub_stream import RECENT, SPARSE_ROWS, Position, Positions, digest_row

IDENTITY = {"repo": "org/ds", "revision": "a" * 40, "columns": ("text",)}


def rows_before(positions: Positions, row: int) -> list[int]:
    return [position.row for position in positions.before(row)]


def test_positions_outlive_their_process(tmp_path: Path) -> None:
    first = Positions(tmp_path / "new", IDENTITY)
    for row in (30, 10, 20):
        first.save(Position(row, {"shard": row}, "digest"))
    second = Positions(tmp_path / "new", IDENTITY)
    assert list(second.before(25)) == [Position(20, {"shard": 20}, "digest"), Position(10, {"shard": 10}, "digest")]
    second.forget(20)
    assert rows_before(Positions(tmp_path / "new", IDENTITY), 99) == [30, 10]


@pytest.mark.parametrize("change", [{"revision": "b" * 40}, {"columns": ["text", "id"]}, {"config": "x"}])
def test_positions_of_another_stream_are_refused(
    tmp_path: Path, change: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    Positions(tmp_path, IDENTITY).save(Position(5, {}, "digest"))
    with caplog.at_level(logging.INFO):
        assert rows_before(Positions(tmp_path, {**IDENTITY, **change}), 99) == []
    assert "1 saved positions are broken or of another revision" in caplog.text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"identity": 1}', "\ud800"])
def test_a_broken_position_is_left_out(tmp_path: Path, content: str) -> None:
    (tmp_path / "position-000000000005.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    assert rows_before(Positions(tmp_path, IDENTITY), 99) == []


def test_old_positions_thin_out(tmp_path: Path) -> None:
    positions = Positions(tmp_path, IDENTITY)
    step = SPARSE_ROWS // 20
    for row in range(step, SPARSE_ROWS * 5, step):
        positions.save(Position(row, {}, ""))
    kept = rows_before(Positions(tmp_path, IDENTITY), SPARSE_ROWS * 10)
    assert len(kept) <= RECENT + 5
    assert kept[:RECENT] == list(range(SPARSE_ROWS * 5 - step, SPARSE_ROWS * 5 - step * (RECENT + 1), -step))
    assert kept[RECENT:] == [SPARSE_ROWS * 3, SPARSE_ROWS * 2, SPARSE_ROWS, step]


def test_without_a_folder_positions_stay_in_memory() -> None:
    positions = Positions(None, IDENTITY)
    positions.save(Position(5, {}, ""))
    assert rows_before(positions, 9) == [5]
    positions.forget(5)
    assert rows_before(positions, 9) == []


def test_a_full_disk_costs_only_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("no folder", "utf-8")
    positions = Positions(tmp_path / "file" / "below", IDENTITY)
    positions.save(Position(5, {}, ""))
    assert rows_before(positions, 9) == [5]
    assert "is not saved" in caplog.text


def test_a_digest_tells_rows_apart() -> None:
    assert digest_row({"a": 1, "b": "\ud800"}) == digest_row({"b": "\ud800", "a": 1})
    assert digest_row({"a": 1}) != digest_row({"a": "1"})
