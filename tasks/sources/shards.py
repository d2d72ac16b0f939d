"""Fetch the items of one shard and write it: rejects first, then the documents under the shard's key."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import math
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from storage.atomic import full_disk_explained
from storage.errors import ArchiveBusy
from storage.manifest import digest_of
from storage.parquet import ShardWriter, count_rows, iterate_rows, open_shard, read_shard, read_tags, write_shard
from storage.schemas import RAW_SCHEMA, REJECT_SCHEMA
from storage.shard_plan import CUT_SHORT, SHARD_KEY, Item, ShardSpec
from storage.text import compose
from tasks.sources.catalogue import NOT_IN_REQUEST, SourceSpec
from tasks.sources.outcome import ShardOutcome
from tasks.sources.source import PASSING, Document, Reject, Source, item_id

UNANSWERED_IN_A_ROW = 20
"""So many items in a row that could not be had for now mean that it is the archive, not the items."""
LOOK_AHEAD = 4
"""How many times `concurrency` items may be under way or waiting for an earlier, slower one."""
BUFFER_CHARS = 16 * 2**20
"""Documents are gathered up to this size before they go to disk."""
SHORT_FIELD_CHARS = 1000

Watch = Callable[["Document | Reject"], None]
"""Called for every outcome of a shard as it comes in; must not block."""


def request_key(spec: SourceSpec, limit: int) -> str:
    """Return the digest of what is asked for: the catalogue entry, less pace and remarks, and the limit.

    Keys that keep their default are left out, so that a key of a later version leaves old downloads as they are.
    """
    asked = spec.model_dump(mode="json", exclude=set(NOT_IN_REQUEST), exclude_defaults=True)
    return digest_of({"spec": asked, "limit": limit})


def items_per_shard(spec: SourceSpec) -> int:
    """Return how many items make a shard of a size that a retry can afford to lose."""
    match spec.archive:
        case "internet_archive":
            return 50
        case "chronicling_america":
            return 1 if spec.bulk else 200
        case _:
            return max(1, 2000 // spec.rows_per_item)


async def fetch_shard(
    source: Source,
    spec: SourceSpec,
    shard: ShardSpec,
    folder: Path,
    concurrency: int,
    room: int,
    watch: Watch = lambda outcome: None,
    turns: asyncio.Semaphore | None = None,
) -> ShardOutcome:
    """Fetch a shard's items, `concurrency` at a time, and write at most `room` documents in the items' order.

    The shard's file appears last and carries the shard's key, so that it exists means that the shard is finished.
    Shards that are fetched at the same time share `turns`, so that together they keep to the concurrency.

    Raises:
        ArchiveBusy: The archive is away, or many items in a row cannot be had for now.
        SourceUnavailable: The whole source cannot be read.
        StoreError: The disk is full.
    """
    rejects: list[Reject] = []
    with full_disk_explained(folder), open_shard(folder / shard.file, RAW_SCHEMA) as file:
        buffer = _Buffer(file)
        seen: set[str] = set()
        cut_short = False
        async with aclosing(_outcomes(source, shard.items if room > 0 else [], concurrency, turns)) as outcomes:
            async for outcome in outcomes:
                checked = _checked(outcome, spec, seen)
                watch(checked)
                if isinstance(checked, Reject):
                    rejects.append(checked)
                    continue
                seen.add(checked.id)
                await buffer.add(checked)
                if cut_short := len(seen) >= room:
                    break
        await buffer.flush()
        file.tag({SHARD_KEY: shard.key} | ({CUT_SHORT: "1"} if cut_short else {}))
        await asyncio.to_thread(_write_rejects, folder, shard, rejects)
    return read_outcome(folder, shard)


def items_to_retry(spec: SourceSpec, shard: ShardSpec, folder: Path) -> list[Item]:
    """Return the items of a finished shard that were rejected for a reason that may have passed."""
    rejected = {reject.id for reject in _read_rejects(folder, shard) if reject.reason in PASSING}
    return [item for item in shard.items if stored_id(spec, item) in rejected]


def stored_id(spec: SourceSpec, item: Item) -> str:
    """Return the id under which an item's document, or its reject, is stored."""
    return _short(item_id(spec.name, item)) or "unknown"


async def retry_shard(
    source: Source,
    spec: SourceSpec,
    shard: ShardSpec,
    folder: Path,
    concurrency: int,
    watch: Watch = lambda outcome: None,
    room: int | None = None,
) -> ShardOutcome:
    """Fetch those items of a finished shard again that could not be had; what comes is added to the shard.

    The documents are written before the rejects, so that a process that dies in between leaves an item in both,
    never in none; such a reject is dropped by the next retry.

    Args:
        source: The archive.
        spec: The catalogue entry.
        shard: The shard.
        folder: Where it lies.
        concurrency: Items asked for at a time.
        watch: Called for every outcome.
        room: Fetch the items as well that the request had no room for, and add at most so many documents. None: only
            those that failed, however many documents come of them.
    """
    before = _read_rejects(folder, shard)
    waiting = {reject.id: reject for reject in before if reject.reason in PASSING}
    kept = [reject for reject in before if reject.id not in waiting]
    tags = read_tags(folder / shard.file)
    wanted = set(waiting)
    if room is not None:
        wanted |= {stored_id(spec, item) for item in shard.items} - {reject.id for reject in kept}
    cut_short = False
    with full_disk_explained(folder), open_shard(folder / shard.file, RAW_SCHEMA) as file:
        seen: set[str] = set()
        for batch in iterate_rows(folder / shard.file, RAW_SCHEMA):
            seen.update(batch.column("id").to_pylist())
            await asyncio.to_thread(file.write_batch, batch)
        buffer = _Buffer(file)
        left = [item for item in shard.items if stored_id(spec, item) in wanted - seen]
        most = math.inf if room is None else len(seen) + room
        async with aclosing(_outcomes(source, left, concurrency)) as outcomes:
            async for outcome in outcomes:
                checked = _checked(outcome, spec, seen)
                watch(checked)
                waiting.pop(_short(checked.id) or "", None)
                if isinstance(checked, Reject):
                    kept.append(checked)
                    continue
                seen.add(checked.id)
                await buffer.add(checked)
                if cut_short := len(seen) >= most:
                    break
        await buffer.flush()
        if room is not None:
            tags = {SHARD_KEY: shard.key} | ({CUT_SHORT: "1"} if cut_short else {})
        file.tag(tags)
    kept += [reject for reject in waiting.values() if reject.id not in seen]
    await asyncio.to_thread(_write_rejects, folder, shard, kept)
    return read_outcome(folder, shard)


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


async def _outcomes(
    source: Source, items: Iterable[Item], concurrency: int, turns: asyncio.Semaphore | None = None
) -> AsyncGenerator[Document | Reject, None]:
    """Yield the outcomes of all items in order while later items are already on their way."""
    remaining = iter(items)
    window: deque[asyncio.Task[list[Document | Reject]]] = deque()
    turns = turns or asyncio.Semaphore(concurrency)
    unanswered = 0

    async def collect(item: Item) -> list[Document | Reject]:
        async with turns:
            return [outcome async for outcome in source.fetch(item)]

    def start_next() -> None:
        item = next(remaining, None)
        if item is not None:
            window.append(asyncio.create_task(collect(item)))

    try:
        for _ in range(LOOK_AHEAD * concurrency):
            start_next()
        while window:
            outcomes = await window[0]
            window.popleft()
            start_next()
            passing = [o for o in outcomes if isinstance(o, Reject) and o.reason in PASSING]
            unanswered = unanswered + 1 if passing else 0
            if unanswered >= UNANSWERED_IN_A_ROW:
                raise ArchiveBusy(f"{unanswered} items in a row could not be had for now; {passing[-1].detail}")
            for outcome in outcomes:
                yield outcome
    finally:
        for task in window:
            task.cancel()
        await asyncio.gather(*window, return_exceptions=True)


def _checked(outcome: Document | Reject, spec: SourceSpec, seen: set[str]) -> Document | Reject:
    """Hold a document against the bounds of its source; its text is stored whole and as it is."""
    if isinstance(outcome, Reject):
        return outcome
    text, id = storable(outcome.text), _short(outcome.id) or "unknown"  # as it is stored, so that equal ones are seen
    length = len(text.strip())
    if length < spec.min_text_chars:
        detail = f"{length} characters, at least {spec.min_text_chars} are needed"
        return Reject(outcome.id, outcome.url, "too-short", detail)
    if len(text) > spec.max_text_chars:
        detail = f"{len(text)} characters, the cap is max_text_chars = {spec.max_text_chars}"
        return Reject(outcome.id, outcome.url, "too-large", detail)
    if reason := spec.outside_languages(outcome.language):
        return Reject(outcome.id, outcome.url, reason, f"the language is {outcome.language!r}")
    if id in seen:
        return Reject(outcome.id, outcome.url, "duplicate-id", "an earlier document of this shard has the same id")
    return dataclasses.replace(outcome, id=id, text=text)


class _Buffer:
    """Gathers documents on their way to disk, so that a shard of long texts never lies in memory as a whole."""

    def __init__(self, file: ShardWriter) -> None:
        self._file = file
        self._rows: list[dict[str, Any]] = []
        self._chars = 0

    async def add(self, document: Document) -> None:
        self._rows.append(_row(document))
        self._chars += len(document.text)
        if self._chars >= BUFFER_CHARS:
            await self.flush()

    async def flush(self) -> None:
        rows, self._rows, self._chars = self._rows, [], 0
        await asyncio.to_thread(self._file.write, rows)


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


def _write_rejects(folder: Path, shard: ShardSpec, rejects: list[Reject]) -> None:
    rows = [
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
        pa.Table.from_pylist(rows, schema=REJECT_SCHEMA),
        REJECT_SCHEMA,
        {SHARD_KEY: shard.key},
    )


def _read_rejects(folder: Path, shard: ShardSpec) -> list[Reject]:
    rows = read_shard(folder / shard.rejects_file, REJECT_SCHEMA).to_pylist()
    return [Reject(row["id"], row["url"], row["reason"], row["detail"] or "", row["attempts"]) for row in rows]
