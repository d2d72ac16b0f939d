"""Raw tables of a few documents."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from storage.schemas import RAW_SCHEMA


def raw_table(texts: Sequence[str], *, extras: Sequence[dict[str, Any]] | None = None, **fields: Any) -> pa.Table:
    """Make a raw table of the source ``books``; `fields` are the same for all documents."""
    rows = [
        {
            "id": f"books:{n}",
            "source": "books",
            "source_type": "historical_book",
            "year": 1887,
            "year_evidence": "metadata",
            "text": text,
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
            "fetched_at": datetime(2024, 1, 1, tzinfo=UTC),
            "extra": json.dumps(extras[n] if extras else {}),
            **fields,
        }
        for n, text in enumerate(texts)
    ]
    return pa.Table.from_pylist(rows, schema=RAW_SCHEMA)
