"""Fetch the items of one shard and write it: rejects first, then the documents under the shard's key."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
from collections import Counter, deque
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from storage.errors import ArchiveBusy
from storage.manifest import digest_of
from storage.parquet import count_rows, read_shard, write_shard
from storage.schemas import RAW_SCHEMA, REJECT_SCHEMA
from storage.shard_plan import CUT_SHORT, SHARD_KEY, Item, ShardSpec
from storage.text import clean_text, compose
from tasks.sources.catalogue import NOT_IN_REQUEST, SourceSpec
from tasks.sources.source import ARCHIVE_BUSY, Document, Reject, Source

BUSY_IN_A_ROW = 3
"""So many items in a row that an archive does not answer for mean that it is the archive, not the item."""
SHORT_FIELD_CHARS = 1000


@dataclass(frozen=True)
class ShardOutcome:
    """What a finished shard holds: pointers and counts, never documents."""

    file: str
    documents: int
    rejects: int
    bytes: int
    reasons: dict[str, int] = field(default_factory=dict)


def request_key(spec: SourceSpec, limit: int) -> str:
    """Return the digest of what is asked for: the catalogue entry, less pace and remarks, and the limit."""
    return digest_of({"spec": spec.model_dump(mode="json", exclude=set(NOT_IN_REQUEST)), "limit": limit})


def items_per_shard(spec: SourceSpec) -> int:
    """Return how many items make a shard of a size that a retry can afford to lose and memory can hold."""
    match spec.archive:
        case "internet_archive":
            return 50
        case "chronicling_america":
            return 200
        case _:
            return max(1, 2000 // spec.rows_per_item)


async def fetch_shard(
    source: Source, spec: SourceSpec, shard: ShardSpec, folder: Path, concurrency: int, room: int
) -> ShardOutcome:
    """Fetch a shard's items, `concurrency` at a time, and write at most `room` documents in the items' order.

    The shard's file appears last and carries the shard's key, so that it exists means that the shard is finished.

    Raises:
        ArchiveBusy: The archive wants a pause, or answers for several items in a row with nothing.
        SourceUnavailable: The whole source cannot be read.
    """
    documents: list[dict[str, Any]] = []
    rejects: list[Reject] = []
    seen: set[str] = set()
    cut_short = False
    async with aclosing(_outcomes(source, shard.items if room > 0 else [], concurrency)) as outcomes:
        async for outcome in outcomes:
            checked = _checked(outcome, spec, seen)
            if isinstance(checked, Reject):
                rejects.append(checked)
            else:
                seen.add(checked.id)
                documents.append(_row(checked))
                if cut_short := len(documents) >= room:
                    break
    tags = {SHARD_KEY: shard.key} | ({CUT_SHORT: "1"} if cut_short else {})
    return await asyncio.to_thread(_write, folder, shard, documents, rejects, tags)


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


async def _outcomes(source: Source, items: Iterable[Item], concurrency: int) -> AsyncGenerator[Document | Reject, None]:
    """Yield the outcomes of all items in order while later items are already on their way."""
    remaining = iter(items)
    running: deque[asyncio.Task[list[Document | Reject]]] = deque()
    answered, silent = 0, 0

    def start_next() -> None:
        item = next(remaining, None)
        if item is not None:
            running.append(asyncio.create_task(_collect(source, item)))

    try:
        for _ in range(max(1, concurrency)):
            start_next()
        while running:
            outcomes = await running[0]
            running.popleft()
            start_next()
            unanswered = [o for o in outcomes if isinstance(o, Reject) and o.reason == ARCHIVE_BUSY]
            answered, silent = (answered, silent + 1) if unanswered else (answered + 1, 0)
            if unanswered and (silent >= BUSY_IN_A_ROW or not (answered or running)):
                raise ArchiveBusy(f"the archive did not answer for {silent} items in a row; {unanswered[-1].detail}")
            for outcome in outcomes:
                yield outcome
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _collect(source: Source, item: Item) -> list[Document | Reject]:
    return [outcome async for outcome in source.fetch(item)]


def _checked(outcome: Document | Reject, spec: SourceSpec, seen: set[str]) -> Document | Reject:
    """Clean a document and hold it against the bounds of its source."""
    if isinstance(outcome, Reject):
        return outcome
    text = clean_text(storable(outcome.text))  # what is stored is what is scored and trained on
    if len(text.strip()) < spec.min_text_chars:
        detail = f"{len(text.strip())} characters, at least {spec.min_text_chars} are needed"
        return Reject(outcome.id, outcome.url, "too-short", detail)
    if outcome.id in seen:
        return Reject(outcome.id, outcome.url, "duplicate-id", "an earlier document of this shard has the same id")
    extra = outcome.extra
    if len(text) > spec.max_text_chars:
        text, extra = text[: spec.max_text_chars], {**extra, "truncated": True}
    return dataclasses.replace(outcome, text=text, extra=extra)


def _row(document: Document) -> dict[str, Any]:
    row = {key.name: getattr(document, key.name) for key in dataclasses.fields(document)}
    for name in ("id", "url", "title", "author", "date", "language", "licence"):
        row[name] = _short(row[name])
    row["extra"] = storable(json.dumps(document.extra, ensure_ascii=False, sort_keys=True, default=str))
    row["sha256"] = hashlib.sha256(document.text.encode()).hexdigest()
    row["fetched_at"] = datetime.now(UTC)
    return row


def _short(value: str | None) -> str | None:
    """Clean a field that is shown on one line."""
    if value is None:
        return None
    return " ".join(compose(storable(value)).split())[:SHORT_FIELD_CHARS] or None


def _write(
    folder: Path, shard: ShardSpec, documents: list[dict[str, Any]], rejects: list[Reject], tags: dict[str, str]
) -> ShardOutcome:
    reject_rows = [
        {
            "id": _short(reject.id) or "unknown",
            "url": _short(reject.url),
            "reason": reject.reason,
            "detail": _short(reject.detail),
            "attempts": reject.attempts,
        }
        for reject in rejects
    ]
    write_shard(
        folder / shard.rejects_file,
        pa.Table.from_pylist(reject_rows, schema=REJECT_SCHEMA),
        REJECT_SCHEMA,
        tags,
    )
    write_shard(folder / shard.file, pa.Table.from_pylist(documents, schema=RAW_SCHEMA), RAW_SCHEMA, tags)
    return read_outcome(folder, shard)
