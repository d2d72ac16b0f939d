"""What a scored table says of its source as a whole."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

CONFLICT_SHARE_MAXIMUM = 0.20
"""A source with a larger share of year conflicts is mislabelled."""


def count_conflicts(scored: pa.Table) -> int:
    """Count the rows whose year contradicts their source type."""
    flags = [pc.struct_field(chunk, "conflict") for chunk in scored.column("components").chunks]
    return sum(int(pc.sum(flag).as_py() or 0) for flag in flags)


def conflict_share(scored: pa.Table) -> float:
    """Return the share of rows in conflict; 0 for an empty table."""
    return count_conflicts(scored) / scored.num_rows if scored.num_rows else 0.0
