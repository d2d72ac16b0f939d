"""A signal that takes its time, and that fails where it is told to, for the drills."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pyarrow as pa

SECONDS_PER_SHARD = float(os.environ.get("SLOW_SIGNAL_SECONDS", "0.5"))
FAILS = os.environ.get("SLOW_SIGNAL_FAILS", "")
"""A file that names the source whose shards are not to be scored while it is there."""


def score(documents: pa.Table) -> dict[str, list[float | None]]:
    """Leave the built-in scores as they are, slowly."""
    time.sleep(SECONDS_PER_SHARD)
    if FAILS and Path(FAILS).exists() and Path(FAILS).read_text("utf-8") == documents["source"][0].as_py():
        raise RuntimeError("this shard is not to be scored yet")
    return {"auth_weight": [None] * documents.num_rows}
