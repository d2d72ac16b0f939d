"""A signal that takes its time, for the drills."""

from __future__ import annotations

import os
import time

import pyarrow as pa

SECONDS_PER_SHARD = float(os.environ.get("SLOW_SIGNAL_SECONDS", "0.5"))


def score(documents: pa.Table) -> dict[str, list[float | None]]:
    """Leave the built-in scores as they are, slowly."""
    time.sleep(SECONDS_PER_SHARD)
    return {"auth_weight": [None] * documents.num_rows}
