from __future__ import annotations

from pathlib import Path

import pytest

from tasks.sources import rounds


def test_rounds_grow_apart_and_begin_anew_with_headway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(rounds.time, "monotonic", lambda: now[0])
    waiting = rounds.Rounds([tmp_path, tmp_path / "absent"], 1000.0)

    def waits() -> list[float]:
        found = []
        while (wait := waiting.next_wait()) is not None:
            found.append(wait)
            now[0] += wait
        return found

    assert waits() == [30.0, 60.0, 120.0, 240.0, 480.0]
    now[0] += 10_000
    assert waits() == []
    (tmp_path / "shard-00000.parquet").touch()
    assert waits() == [30.0, 60.0, 120.0, 240.0, 480.0]
