"""Fetch the items of one shard and write it: rejects first, then the documents under the shard's key."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import sys
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import aclosing, asynccontextmanager
from itertools import chain
from pathlib import Path

from storage.errors import ArchiveBusy
from storage.manifest import digest_of
from storage.parquet import ShardWriter, iterate_rows, open_shard, read_tags
from storage.schemas import RAW_SCHEMA
from storage.shard_plan import CUT_SHORT, SHARD_KEY, Item, ShardSpec
from tasks.sources.catalogue import NOT_IN_REQUEST, SourceSpec
from tasks.sources.outcome import ShardOutcome
from tasks.sources.source import PASSING, Document, Reject, Source, item_id
from tasks.sources.stored import Buffer, one_line, read_outcome, read_rejects, storable, write_rejects

UNANSWERED_IN_A_ROW = 20
"""So many items in a row that could not be had for now mean that it is the archive, not the items."""
LOOK_AHEAD = 4
"""How many times `concurrency` items may be under way or waiting for an earlier, slower one."""

ENOUGH_DOCUMENTS = 1000
"""A shard of rows with fewer documents takes in the next one, so that a query that keeps little leaves few shards."""
MOST_ROWS = 100_000
"""With so many rows read, kept or not, a shard ends: they would have to be read again after an interruption."""

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
    behind: Iterable[ShardSpec] = (),
    join: Callable[[int], ShardSpec] | None = None,
) -> ShardOutcome:
    """Fetch a shard's items, `concurrency` at a time, and write at most `room` documents in the items' order.

    The shard's file appears last and carries the shard's key, so that it exists means that the shard is finished.
    Shards that are fetched at the same time share `turns`, so that together they keep to the concurrency.

    Args:
        source: The archive.
        spec: The catalogue entry.
        shard: What to fetch.
        folder: Where the file appears.
        concurrency: Items asked for at a time.
        room: Most documents.
        watch: Called for every outcome.
        turns: One for each item that may be under way.
        behind: The shards that follow, which this one takes in while few of its rows were kept.
        join: Makes one shard in the plan of so many, before its file appears.

    Raises:
        ArchiveBusy: The archive is away, or many items in a row cannot be had for now.
        SourceUnavailable: The whole source cannot be read.
        StoreError: The disk is full.
    """
    rejects: list[Reject] = []
    seen: set[str] = set()
    async with _opened(folder / shard.file) as file:
        for taken, part in enumerate(chain([shard], behind), 1):  # noqa: B007
            outcomes = _outcomes(source, part.items if room > 0 else [], concurrency, turns)
            more, cut_short = await _keep(outcomes, file, spec, seen, room, watch)
            rejects += more
            if cut_short or len(seen) >= ENOUGH_DOCUMENTS or len(seen) + len(rejects) >= MOST_ROWS:
                break
        if taken > 1 and join is not None:
            shard = await asyncio.to_thread(join, taken)
        file.tag(_tags(shard, cut_short))
        await asyncio.to_thread(write_rejects, folder, shard, rejects)
    return await asyncio.to_thread(read_outcome, folder, shard)


@asynccontextmanager
async def _opened(path: Path) -> AsyncIterator[ShardWriter]:
    """Open a shard whose last step, which waits for the disk, holds up no request of another."""
    shard = open_shard(path, RAW_SCHEMA)
    file = shard.__enter__()
    try:
        yield file
    except BaseException:
        shard.__exit__(*sys.exc_info())
        raise
    await asyncio.to_thread(shard.__exit__, None, None, None)


def items_to_retry(spec: SourceSpec, shard: ShardSpec, folder: Path, reasons: frozenset[str] = PASSING) -> list[Item]:
    """Return the items of a finished shard that were rejected for a reason that may have passed."""
    rejected = {reject.id for reject in read_rejects(folder, shard) if reject.reason in reasons}
    return [item for item in shard.items if stored_id(spec, item) in rejected]


def stored_id(spec: SourceSpec, item: Item) -> str:
    """Return the id under which an item's document, or its reject, is stored."""
    return one_line(item_id(spec.name, item)) or "unknown"


async def retry_shard(
    source: Source,
    spec: SourceSpec,
    shard: ShardSpec,
    folder: Path,
    concurrency: int,
    watch: Watch = lambda outcome: None,
    room: int | None = None,
    reasons: frozenset[str] = PASSING,
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
        reasons: For what an item was rejected that is fetched again.
    """
    before = read_rejects(folder, shard)
    waiting = {reject.id: reject for reject in before if reject.reason in reasons}
    kept = [reject for reject in before if reject.id not in waiting]
    tags = read_tags(folder / shard.file)
    wanted = set(waiting)
    if room is not None:
        wanted |= {stored_id(spec, item) for item in shard.items} - {reject.id for reject in kept}
    async with _opened(folder / shard.file) as file:
        seen: set[str] = set()
        for batch in iterate_rows(folder / shard.file, RAW_SCHEMA):
            seen.update(batch.column("id").to_pylist())
            await asyncio.to_thread(file.write_batch, batch)
        left = [item for item in shard.items if stored_id(spec, item) in wanted - seen]
        most = math.inf if room is None else len(seen) + room
        rejects, cut_short = await _keep(_outcomes(source, left, concurrency), file, spec, seen, most, watch)
        file.tag(tags if room is None else _tags(shard, cut_short))
    answered = seen | {one_line(reject.id) for reject in rejects}
    still_waiting = [reject for reject in waiting.values() if reject.id not in answered]
    await asyncio.to_thread(write_rejects, folder, shard, [*kept, *rejects, *still_waiting])
    return await asyncio.to_thread(read_outcome, folder, shard)


def _tags(shard: ShardSpec, cut_short: bool) -> dict[str, str]:
    return {SHARD_KEY: shard.key} | ({CUT_SHORT: "1"} if cut_short else {})


async def _keep(
    outcomes: AsyncGenerator[Document | Reject, None],
    file: ShardWriter,
    spec: SourceSpec,
    seen: set[str],
    most: float,
    watch: Watch,
) -> tuple[list[Reject], bool]:
    """Write the documents that hold against the bounds of their source, until the shard has `most` of them.

    Returns:
        The rejects, and whether the outcomes were cut short. The ids of the documents are added to `seen`.
    """
    rejects: list[Reject] = []
    buffer = Buffer(file)
    cut_short = False
    async with aclosing(outcomes):
        async for outcome in outcomes:
            checked = _checked(outcome, spec, seen)
            watch(checked)
            if isinstance(checked, Reject):
                rejects.append(checked)
                continue
            seen.add(checked.id)
            await buffer.add(checked)
            if cut_short := len(seen) >= most:
                break
    await buffer.flush()
    return rejects, cut_short


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
    text, id = storable(outcome.text), one_line(outcome.id) or "unknown"  # as it is stored, so that equal ones are seen
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
