from __future__ import annotations

from pathlib import Path

import pytest

from storage.layout import Layout
from tasks import archives
from tasks.sources.catalogue import load_catalogue


def test_rounds_grow_apart_and_begin_anew_with_headway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout, specs = Layout.of(str(tmp_path)), [load_catalogue()[name] for name in ("wikipedia", "big_patent")]
    layout.raw("wikipedia").mkdir(parents=True)
    now = [0.0]
    monkeypatch.setattr(archives.time, "monotonic", lambda: now[0])
    waiting = archives.Rounds(specs, layout, 1000.0)

    def waits() -> list[float]:
        found = []
        while (wait := waiting.next_wait()) is not None:
            found.append(wait)
            now[0] += wait
        return found

    assert waits() == [30.0, 60.0, 120.0, 240.0, 480.0]
    now[0] += 10_000
    assert waits() == []
    (layout.raw("wikipedia") / "shard-00000.parquet").touch()
    assert waits() == [30.0, 60.0, 120.0, 240.0, 480.0]
