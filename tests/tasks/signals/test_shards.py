"""A scored shard on a disk that takes no more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from storage.parquet import write_shard
from storage.schemas import RAW_SCHEMA
from tests.tasks.signals.raw_documents import raw_table

ROOT = Path(__file__).resolve().parents[3]


def test_a_full_disk_is_told_and_nothing_is_half_written(tmp_path: Path) -> None:
    raw, scored = tmp_path / "raw" / "shard-00000.parquet", tmp_path / "scored" / "shard-00000.parquet"
    write_shard(raw, raw_table([f"Letter {n} of 18{n:02} to the Royal Society." for n in range(90)]), RAW_SCHEMA)
    code = "import sys, pathlib, tasks.signals.shards as s; s.score_shard(*map(pathlib.Path, sys.argv[1:3]), None)"
    limited = ["bash", "-c", 'ulimit -f 1; exec "$@"', "score", sys.executable, "-c", code, str(raw), str(scored)]
    answer = subprocess.run(limited, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "StoreError: no room to write" in answer.stderr and "run again" in answer.stderr, answer.stderr
    assert list(scored.parent.iterdir()) == []
