from __future__ import annotations

from pathlib import Path

import pytest

from tasks import archives


def test_rounds_grow_apart_and_begin_anew_with_headway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, found = [0.0], []
    monkeypatch.setattr(archives.time, "monotonic", lambda: now[0])
    for pause in archives.growing_pauses([tmp_path], 1000.0):
        found.append(pause)
        now[0] += pause
        assert len(found) < 20, "patience comes to its end"
        if len(found) == 4:
            (tmp_path / "shard-00000.parquet").touch()
    assert found == [0.0, 30.0, 60.0, 120.0, 30.0, 60.0, 120.0, 240.0, 480.0]
