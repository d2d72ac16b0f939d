"""Fetch the items of one shard and write it: rejects first, then the documents under the shard's key."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import sys
from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from storage.errors import ArchiveBusy
from storage.parquet import ShardWriter, iterate_rows, open_shard, read_tags
from storage.schemas import RAW_SCHEMA
from storage.shard_plan import CUT_SHORT, SHARD_KEY, Item, ShardPlan, ShardSpec
from tasks.sources.catalogue import SourceSpec
from tasks.sources.raw_dataset import Buffer, one_line, read_outcome, read_rejects, storable, write_rejects
from tasks.sources.results import ShardOutcome
from tasks.sources.source import ASKED_FOR, PASSING, Document, Reject, Source, item_id
from tasks.sources.subjects import most_on_one
from tasks.sources.throughput import Throughput

UNANSWERED_IN_A_ROW = 20
"""If this many items in a row fail for now, the archive is at fault, not the items."""
LOOK_AHEAD = 4
"""How many times `concurrency` items may be under way or waiting for an earlier, slower one."""
ENOUGH_DOCUMENTS = 1000
"""A shard of rows with fewer documents takes in the next one, so that a query that keeps little leaves few shards."""
MOST_ROWS = 100_000
"""After this many rows, kept or not, a shard ends: an interruption would read them all again."""


class Seen(set[str]):
    """The ids of the documents of a shard; `subjects` counts those on each subject."""

    def __init__(self) -> None:
        super().__init__()
        self.subjects: Counter[str] = Counter()


Watch = Callable[["Document | Reject"], None]


def items_per_shard(spec: SourceSpec) -> int:
    """Return how many items make a shard of a size that a retry can afford to lose."""
    match spec.archive:
        case "internet_archive":
            return 50
        case "chronicling_america":
            return 1 if spec.bulk else 200
        case _:
            return max(1, 2000 // spec.rows_per_item)


def most_documents(spec: SourceSpec, plan: ShardPlan) -> int | None:
    """Return how many documents a plan can give at most; none if its items do not say."""
    if spec.item_is_document:
        return plan.items
    if spec.archive != "local_files":
        return None
    items = (item.data for shard in plan.shards for item in shard.items)
    return sum(len(data.get("texts", ())) + int(data.get("rows", 0)) for data in items)


@dataclass
class SourceDownload:
    """One source being downloaded: its open archive, the folder of its shards, and how far it is.

    Attributes:
        concurrency: Items asked for at a time, over all shards under way.
        limit: How many documents are wanted.
        retried: The reasons of rejects that are fetched again.
    """

    source: Source
    spec: SourceSpec
    folder: Path
    concurrency: int
    limit: int = 0
    retried: frozenset[str] = PASSING
    throughput: Throughput = field(default_factory=lambda: Throughput(0))

    def __post_init__(self) -> None:
        self._turns = asyncio.Semaphore(self.concurrency)

    async def fetch(
        self,
        shard: ShardSpec,
        room: int,
        behind: Iterable[ShardSpec] = (),
        join: Callable[[int], ShardSpec] | None = None,
    ) -> ShardOutcome:
        """Fetch a shard's items and write at most `room` documents in the items' order.

        The shard's file appears last and carries the shard's key, so that it exists means that the shard is finished.

        While few of its rows were kept, it takes in the shards `behind` it; `join` makes one shard of so many in the
        plan, before its file appears.

        Raises:
            ArchiveBusy: The archive is away, or many items in a row fail for now.
            SourceUnavailable: The whole source cannot be read.
            StoreError: The disk is full.
        """
        rejects: list[Reject] = []
        seen = Seen()
        async with self._writing(shard) as (file, watch):
            for taken, part in enumerate(chain([shard], behind), 1):  # noqa: B007
                more, cut_short = await self._keep(part.items if room > 0 else [], file, seen, room, watch)
                rejects += more
                if cut_short or len(seen) >= ENOUGH_DOCUMENTS or len(seen) + len(rejects) >= MOST_ROWS:
                    break
            if taken > 1 and join is not None:
                shard = await asyncio.to_thread(join, taken)
            file.tag(_tags(shard, cut_short))
            await asyncio.to_thread(write_rejects, self.folder, shard, rejects)
        return await asyncio.to_thread(read_outcome, self.folder, shard)

    async def retry(self, shard: ShardSpec, room: int | None = None) -> ShardOutcome:
        """Fetch the failed items of a finished shard again; what comes is added to the shard.

        The documents are written before the rejects, so that a process that dies in between leaves an item in both,
        never in none; such a reject is dropped by the next retry.

        Args:
            shard: The shard.
            room: Fetch the items as well that the request had no room for, and add at most this many documents. None:
                only those that failed, however many documents come of them.
        """
        before = read_rejects(self.folder, shard)
        waiting = {reject.id: reject for reject in before if reject.reason in self.retried}
        kept = [reject for reject in before if reject.id not in waiting]
        path = self.folder / shard.file
        tags, wanted, seen = read_tags(path), set(waiting), Seen()
        if room is not None:
            wanted |= {stored_id(self.spec, item) for item in shard.items} - {reject.id for reject in kept}
        async with self._writing(shard) as (file, watch):
            for batch in iterate_rows(path, RAW_SCHEMA):
                seen.update(batch.column("id").to_pylist())
                await asyncio.to_thread(file.write_batch, batch)
            left = [item for item in shard.items if stored_id(self.spec, item) in wanted - seen]
            most = math.inf if room is None else len(seen) + room
            rejects, cut_short = await self._keep(left, file, seen, most, watch)
            file.tag(tags if room is None else _tags(shard, cut_short))
        answered = seen | {one_line(reject.id) for reject in rejects}
        still_waiting = [reject for reject in waiting.values() if reject.id not in answered]
        await asyncio.to_thread(write_rejects, self.folder, shard, [*kept, *rejects, *still_waiting])
        return await asyncio.to_thread(read_outcome, self.folder, shard)

    def lacks_documents(self, shard: ShardSpec) -> bool:
        """Tell whether a finished shard lacks items that failed and may pass, or that the request had no room for."""
        if not shard.is_whole(self.folder):
            return True
        rejected = {reject.id for reject in read_rejects(self.folder, shard) if reject.reason in self.retried}
        return any(stored_id(self.spec, item) in rejected for item in shard.items)

    @asynccontextmanager
    async def _writing(self, shard: ShardSpec) -> AsyncIterator[tuple[ShardWriter, Watch]]:
        """Open a shard's file, and count the outcomes of this try at it.

        The last step, which waits for the disk, runs in a thread and delays no other request.
        """
        with self.throughput.attempt() as watch:
            opened = open_shard(self.folder / shard.file, RAW_SCHEMA)
            file = opened.__enter__()
            try:
                yield file, watch
            except BaseException:
                opened.__exit__(*sys.exc_info())
                raise
            await asyncio.to_thread(opened.__exit__, None, None, None)

    async def _keep(
        self, items: Iterable[Item], file: ShardWriter, seen: Seen, most: float, watch: Watch
    ) -> tuple[list[Reject], bool]:
        """Write the documents that fit the bounds of their source, until the shard has `most` of them.

        Returns:
            The rejects, and whether the outcomes were cut short. The ids of the documents are added to `seen`.
        """
        rejects: list[Reject] = []
        buffer = Buffer(file)
        cut_short = False
        async with aclosing(self._outcomes(items)) as outcomes:
            async for outcome in outcomes:
                checked = self._of_a_full_subject(_checked(outcome, self.spec, seen), seen)
                watch(checked)
                if isinstance(checked, Reject):
                    rejects.append(checked)
                    continue
                seen.add(checked.id)
                seen.subjects[checked.extra.get(ASKED_FOR, "")] += 1
                await buffer.add(checked)
                if cut_short := len(seen) >= most:
                    break
        await buffer.flush()
        return rejects, cut_short

    def _of_a_full_subject(self, outcome: Document | Reject, seen: Seen) -> Document | Reject:
        """Reject a row on a subject that has enough documents in its shard; plans of searches see to it themselves.

        A shard ends at `ENOUGH_DOCUMENTS`, so what holds in each of them holds in the source, also after a resume.
        """
        if not (self.spec.is_rows and self.spec.subjects) or isinstance(outcome, Reject):
            return outcome
        most = most_on_one(min(self.limit, ENOUGH_DOCUMENTS), len(self.spec.subjects))
        if seen.subjects[outcome.extra.get(ASKED_FOR, "")] < most:
            return outcome
        return Reject(outcome.id, outcome.url, "subject-full", f"its shard holds {most} documents on this subject")

    async def _outcomes(self, items: Iterable[Item]) -> AsyncGenerator[Document | Reject, None]:
        """Yield the outcomes of all items in order while later items are already on their way."""
        remaining = iter(items)
        window: deque[asyncio.Task[list[Document | Reject]]] = deque()
        unanswered = 0

        async def collect(item: Item) -> list[Document | Reject]:
            async with self._turns:
                return [outcome async for outcome in self.source.fetch(item)]

        def start_next() -> None:
            item = next(remaining, None)
            if item is not None:
                window.append(asyncio.create_task(collect(item)))

        try:
            for _ in range(LOOK_AHEAD * self.concurrency):
                start_next()
            while window:
                outcomes = await window[0]
                window.popleft()
                start_next()
                passing = [o for o in outcomes if isinstance(o, Reject) and o.reason in PASSING]
                unanswered = unanswered + 1 if passing else 0
                if unanswered >= UNANSWERED_IN_A_ROW:
                    raise ArchiveBusy(f"{unanswered} items in a row could not be fetched for now; {passing[-1].detail}")
                for outcome in outcomes:
                    yield outcome
        finally:
            for task in window:
                task.cancel()
            await asyncio.gather(*window, return_exceptions=True)


def stored_id(spec: SourceSpec, item: Item) -> str:
    """Return the id under which an item's document, or its reject, is stored."""
    return one_line(item_id(spec.name, item)) or "unknown"


def _tags(shard: ShardSpec, cut_short: bool) -> dict[str, str]:
    return {SHARD_KEY: shard.key} | ({CUT_SHORT: "1"} if cut_short else {})


def _checked(outcome: Document | Reject, spec: SourceSpec, seen: Seen) -> Document | Reject:
    """Check a document against the bounds of its source; its text is stored whole."""
    if isinstance(outcome, Reject):
        return outcome
    text, id = storable(outcome.text), one_line(outcome.id) or "unknown"  # as it is stored, so that equal ones are seen

    def reject(reason: str, detail: str) -> Reject:
        return Reject(outcome.id, outcome.url, reason, detail)

    if (length := len(text.strip())) < spec.min_text_chars:
        return reject("too-short", f"{length} characters, at least {spec.min_text_chars} are needed")
    if len(text) > spec.max_text_chars:
        return reject("too-large", f"{len(text)} characters, the cap is max_text_chars = {spec.max_text_chars}")
    if reason := spec.outside_languages(outcome.language):
        return reject(reason, f"the language is {outcome.language!r}")
    if id in seen:
        return reject("duplicate-id", "an earlier document of this shard has the same id")
    return dataclasses.replace(outcome, id=id, text=text)
