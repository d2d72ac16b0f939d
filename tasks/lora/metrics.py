"""``metrics.parquet`` of a run: what its loop measured, for curves and comparisons. Knows nothing of mlx."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from storage.parquet import read_shard

METRICS = "metrics.parquet"

METRICS_SCHEMA = pa.schema(
    [
        pa.field("step", pa.int64(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("ce", pa.float64()),
        pa.field("distrust", pa.float64()),
        pa.field("total", pa.float64()),
        pa.field("learning_rate", pa.float64()),
        pa.field("grad_norm", pa.float64()),
        pa.field("clipped_share", pa.float64()),
        pa.field("tokens", pa.int64()),
        pa.field("tokens_per_second", pa.float64()),
        pa.field("peak_memory_gb", pa.float64()),
        pa.field("valid_ce", pa.float64()),
        pa.field("valid_objective", pa.float64()),
        pa.field("valid_ce_low", pa.float64()),
        pa.field("valid_ce_medium", pa.float64()),
        pa.field("valid_ce_high", pa.float64()),
    ]
)
"""One row a report (``kind`` = train: means since the last report) or validation (``kind`` = valid).

Losses are nats per supervised token; ``total`` = ``ce`` + lambda * ``distrust``; ``tokens`` counts since step 0.
"""

LINES = {"ce": "training", "valid_ce": "validation", "valid_ce_low": "low authority", "valid_ce_high": "high authority"}
"""Columns of the loss curve with their legend."""


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Read the rows of a run, oldest first; none if it has reported nothing yet."""
    path = run / METRICS
    return read_shard(path, METRICS_SCHEMA).to_pylist() if path.is_file() else []


def loss_lines(rows: list[dict[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """Return the lines of a run's loss curve by legend: (step, nats per token)."""
    return {
        legend: [(row["step"], row[column]) for row in rows if row[column] is not None]
        for column, legend in LINES.items()
    }


def gap_line(rows: list[dict[str, Any]]) -> list[tuple[float, float]]:
    """Return how much worse coordinated sources are predicted than primary ones: (step, nats per token)."""
    return [
        (row["step"], row["valid_ce_high"] - row["valid_ce_low"])
        for row in rows
        if row["valid_ce_high"] is not None and row["valid_ce_low"] is not None
    ]
