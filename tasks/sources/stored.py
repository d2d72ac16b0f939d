"""How documents and rejects of a shard lie on disk, and what a finished shard says of itself."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from storage.parquet import ShardWriter, count_rows, read_shard, write_shard
from storage.schemas import REJECT_SCHEMA
from storage.shard_plan import SHARD_KEY, ShardSpec
from storage.text import compose
from tasks.sources.outcome import ShardOutcome
from tasks.sources.source import Document, Reject

BUFFER_CHARS = 16 * 2**20
"""Documents are gathered up to this size before they go to disk."""
SHORT_FIELD_CHARS = 1000


def read_outcome(folder: Path, shard: ShardSpec) -> ShardOutcome:
    """Describe a finished shard from its files.

    Raises:
        StoreError: The rejects beside it cannot be read.
    """
    reasons: Counter[str] = Counter()
    if (folder / shard.rejects_file).is_file():
        reasons.update(read_shard(folder / shard.rejects_file, REJECT_SCHEMA, ["reason"]).column("reason").to_pylist())
    file = folder / shard.file
    return ShardOutcome(
        shard.file, count_rows(file), reasons.total(), file.stat().st_size, dict(sorted(reasons.items()))
    )


def storable(text: str) -> str:
    """Return a text without NUL and with no code point that UTF-8 cannot carry."""
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")


class Buffer:
    """Gathers documents on their way to disk, so that a shard of long texts never lies in memory as a whole."""

    def __init__(self, file: ShardWriter) -> None:
        self._file = file
        self._rows: list[dict[str, Any]] = []
        self._chars = 0

    async def add(self, document: Document) -> None:
        """Take a document."""
        self._rows.append(_row(document))
        self._chars += len(document.text)
        if self._chars >= BUFFER_CHARS:
            await self.flush()

    async def flush(self) -> None:
        """Write what is gathered."""
        rows, self._rows, self._chars = self._rows, [], 0
        await asyncio.to_thread(self._file.write, rows)


def _row(document: Document) -> dict[str, Any]:
    row = {key.name: getattr(document, key.name) for key in dataclasses.fields(document)}
    for name in ("id", "url", "title", "author", "date", "language", "licence"):
        row[name] = one_line(row[name])
    row["extra"] = storable(json.dumps(document.extra, ensure_ascii=False, sort_keys=True, default=str))
    row["sha256"] = hashlib.sha256(document.text.encode()).hexdigest()
    row["fetched_at"] = datetime.now(UTC)
    return row


def one_line(value: str | None) -> str | None:
    """Clean a field that is shown on one line."""
    if value is None:
        return None
    return " ".join(compose(storable(value)).split())[:SHORT_FIELD_CHARS] or None


def write_rejects(folder: Path, shard: ShardSpec, rejects: list[Reject]) -> None:
    """Write the rejects beside a shard."""
    rows = [
        {
            "id": one_line(reject.id) or "unknown",
            "url": one_line(reject.url),
            "reason": reject.reason,
            "detail": one_line(reject.detail),
            "attempts": reject.attempts,
        }
        for reject in rejects
    ]
    write_shard(
        folder / shard.rejects_file,
        pa.Table.from_pylist(rows, schema=REJECT_SCHEMA),
        REJECT_SCHEMA,
        {SHARD_KEY: shard.key},
    )


def read_rejects(folder: Path, shard: ShardSpec) -> list[Reject]:
    """Read the rejects beside a finished shard."""
    rows = read_shard(folder / shard.rejects_file, REJECT_SCHEMA).to_pylist()
    return [Reject(row["id"], row["url"], row["reason"], row["detail"] or "", row["attempts"]) for row in rows]
