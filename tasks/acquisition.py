"""Acquisition as Prefect sees it: plan a source, fetch its shards, seal its folder."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from prefect import task

from storage.atomic import remove_temporaries
from storage.errors import SourceUnavailable, TransientError
from storage.layout import Layout
from storage.lock import in_turn
from storage.manifest import MANIFEST
from storage.shard_plan import (
    ShardPlan,
    ShardSpec,
    extend_plan,
    join_shards,
    make_plan,
    read_plan,
    set_aside_unplanned,
    write_plan,
)
from tasks.policies import LOCAL_WORK, Progress, archive_turn, exclusive, run_logger
from tasks.sources.catalogue import SourceSpec
from tasks.sources.meter import Meter
from tasks.sources.outcome import ShardOutcome, SourceOutcome
from tasks.sources.rounds import Rounds as Rounds
from tasks.sources.sealed import failed_download as failed_download
from tasks.sources.sealed import finished_download as finished_download
from tasks.sources.sealed import seal
from tasks.sources.shards import fetch_shard, items_per_shard, items_to_retry, request_key, retry_shard
from tasks.sources.source import MENDABLE, PASSING, Archives, Document, Reject, Source
from tasks.sources.stored import read_outcome

SHARDS_AT_ONCE = 2


@dataclass
class Session:
    """One source being downloaded: its archive connection, its folder, and how far it is."""

    spec: SourceSpec
    limit: int
    folder: Path
    layout: Layout
    concurrency: int
    source: Source
    meter: Meter
    progress: Progress
    turns: asyncio.Semaphore
    retried: frozenset[str] = PASSING
    """For what a finished shard's items must have been rejected to be fetched again."""

    @contextmanager
    def watched(self) -> Iterator[Callable[[Document | Reject], None]]:
        """Show the outcomes of one try at a shard as they come in; if it fails, they are taken back."""
        with self.meter.attempt() as note:

            def watch(outcome: Document | Reject) -> None:
                note(outcome)
                self.show()

            yield watch

    def show(self) -> None:
        """Bring the progress up to date."""
        self.progress.update(self.meter.share, 1.0, f"{self.spec.name}: {self.meter.describe()}")


def only_downloader(spec: SourceSpec, layout: Layout) -> AbstractAsyncContextManager[None]:
    """Keep others from writing this source while the block runs; the system lets go of it however a process dies.

    Raises:
        DatasetBusy: On entry, if another run is downloading the source.
    """
    return exclusive(layout.raw(spec.name), patience_seconds=0.0)


@asynccontextmanager
async def open_session(
    spec: SourceSpec, layout: Layout, limit: int, archives: Archives, progress: Progress, *, retry_failed: bool = False
) -> AsyncIterator[Session]:
    """Open a source for downloading at most `limit` documents; meanwhile no other process here asks its archive."""
    folder, workspace = layout.raw(spec.name), layout.unfinished(spec.name)
    turn = archive_turn(archives.host_in_turn(spec))
    async with turn, archives.open(spec, workspace) as source:
        await asyncio.to_thread(remove_temporaries, folder)
        concurrency = archives.pace.concurrency
        turns = asyncio.Semaphore(concurrency)
        retried = MENDABLE if retry_failed else PASSING
        meter = Meter(limit)
        yield Session(spec, limit, folder, layout, concurrency, source, meter, progress, turns, retried=retried)


@task(task_run_name="plan-{session.spec.name}", **LOCAL_WORK)
async def plan_source(session: Session, *, refresh: bool = False) -> ShardPlan:
    """List what a source offers and freeze it into shards, or take up the plan of an interrupted download.

    Args:
        session: The source.
        refresh: Ask the archive for items that the plan of a sealed source does not hold yet, and add them to it.

    Raises:
        SourceUnavailable: The archive finds nothing, or cannot be read at all.
        TransientError: The archive cannot be read for now.
        StoreError: The plan on disk is damaged.
    """
    spec, folder = session.spec, session.folder
    request = request_key(spec, session.limit)
    plan = await asyncio.to_thread(read_plan, folder)
    if plan is None or plan.request != request:
        plan_before = plan
        items = await session.source.plan(session.limit)
        if not items:
            raise SourceUnavailable(f"{spec.name}: the archive finds nothing for this entry; change its query or dates")
        before = plan_before.shards if plan_before else ()
        plan = make_plan(spec.name, request, items, items_per_shard(spec), before=before)
        aside = session.layout.set_aside("raw", spec.name, plan_before.request if plan_before else request)
        moved = await asyncio.to_thread(set_aside_unplanned, folder, plan, aside)
        if moved:
            run_logger().warning("%d files of an earlier request were moved to %s", moved, aside)
        plan = await asyncio.to_thread(write_plan, folder, _remarked(session, plan))
    elif refresh and (folder / MANIFEST).is_file():  # what was never sealed is finished first
        known = {item.native_id: item for shard in plan.shards for item in shard.items}
        items = await session.source.plan(session.limit, known)
        run_logger().info("%s: %d items are new since the last plan", spec.name, len(items))
        wanted = session.limit + await asyncio.to_thread(count_documents, session, plan)
        plan = extend_plan(plan, items, items_per_shard(spec), wanted)
        plan = await asyncio.to_thread(write_plan, folder, _remarked(session, plan))
    wanted = max(session.limit, plan.wanted)
    session.meter.wanted = min(wanted, plan.items) if spec.item_is_document else wanted
    return plan


def _remarked(session: Session, plan: ShardPlan) -> ShardPlan:
    """Say what the listing was like, and keep it with the plan."""
    if remark := session.source.remark:
        run_logger().warning("%s: %s", session.spec.name, remark)
    return replace(plan, remark=remark)


def finished_shard(session: Session, shard: ShardSpec) -> ShardOutcome | None:
    """Return the outcome of a shard that an earlier run finished."""
    if not shard.is_finished(session.folder):
        return None
    outcome = read_outcome(session.folder, shard)
    session.meter.note_kept(outcome.documents, outcome.reasons)
    session.show()
    return outcome


@task(task_run_name="fetch-{session.spec.name}-{shard.index:05d}", **LOCAL_WORK)
async def fetch_one_shard(
    session: Session,
    shard: ShardSpec,
    room: int,
    behind: Sequence[ShardSpec] = (),
    join: Callable[[int], ShardSpec] | None = None,
) -> ShardOutcome:
    """Fetch the items of one shard into Parquet; the file appears only when whole."""
    source, spec, folder, concurrency = session.source, session.spec, session.folder, session.concurrency
    with session.watched() as watch:
        outcome = await fetch_shard(source, spec, shard, folder, concurrency, room, watch, session.turns, behind, join)
    run_logger().info("%s: %d documents; rejected: %s", outcome.file, outcome.documents, outcome.describe_rejects())
    push = partial(asyncio.to_thread, session.layout.push, f"raw/{session.spec.name}")
    await in_turn(push, run_logger().warning)
    return outcome


async def fetch_shards(session: Session, plan: ShardPlan, limit: int) -> tuple[ShardPlan, list[ShardOutcome]]:
    """Fetch the shards of a plan that are not there, in order, until there are `limit` documents.

    Returns:
        The plan, whose shards of rows may have been joined, and the outcomes of its first shards.
    """
    if session.spec.item_is_document:
        return plan, await _fetch_overlapping(session, plan, limit)
    return await _fetch_in_turn(session, plan, limit)


async def _fetch_in_turn(session: Session, plan: ShardPlan, limit: int) -> tuple[ShardPlan, list[ShardOutcome]]:
    """Fetch one shard after the other; one of whose rows few were kept takes in those behind it."""
    folder, done = session.folder, list[ShardOutcome]()
    while (index := len(done)) < len(plan.shards):
        if (room := limit - sum(outcome.documents for outcome in done)) <= 0:
            break
        if (outcome := finished_shard(session, shard := plan.shards[index])) is None:
            behind = plan.shards[index + 1 :] if session.spec.is_rows else []
            if any(later.is_finished(folder) for later in behind):  # this one was lost; they keep their places
                behind = []
            outcome = await fetch_one_shard(session, shard, room, behind, partial(_join, folder, plan, index))
            plan = read_plan(folder) or plan
        done.append(outcome)
    return plan, done


def _join(folder: Path, plan: ShardPlan, index: int, count: int) -> ShardSpec:
    return write_plan(folder, join_shards(plan, index, count)).shards[index]


async def _fetch_overlapping(session: Session, plan: ShardPlan, limit: int) -> list[ShardOutcome]:
    """Begin the next shard while the last items of one are tried again: the archive's pace is used up.

    What one shard may still bring is counted as brought, so that the limit holds.
    """
    done: dict[int, ShardOutcome] = {}
    running: dict[int, asyncio.Task[ShardOutcome]] = {}
    expected: dict[int, int] = {}

    def room() -> int:
        return limit - sum(outcome.documents for outcome in done.values()) - sum(expected.values())

    async def finish_oldest() -> None:
        index = min(running)
        done[index] = await running[index]
        del running[index], expected[index]

    try:
        for shard in plan.shards:
            while running and (len(running) >= SHARDS_AT_ONCE or room() < shard.size):
                await finish_oldest()
            if room() <= 0:
                break
            if there := finished_shard(session, shard):
                done[shard.index] = there
            else:
                running[shard.index] = asyncio.create_task(fetch_one_shard(session, shard, room()))
                expected[shard.index] = shard.size
        while running:
            await finish_oldest()
    except asyncio.CancelledError:
        for task in running.values():
            task.cancel()
        raise
    finally:
        # A shard that is under way when another fails is work that need not be lost.
        await asyncio.gather(*running.values(), return_exceptions=True)
    return [done[index] for index in sorted(done)]


def count_documents(session: Session, plan: ShardPlan) -> int:
    """Count the documents of the shards that an earlier run finished."""
    finished = (shard for shard in plan.shards if shard.is_finished(session.folder))
    return sum(read_outcome(session.folder, shard).documents for shard in finished)


def shards_to_mend(session: Session, shards: Iterable[ShardSpec]) -> list[ShardSpec]:
    """Return the finished shards that lack documents: failed items that may pass, or a request that wanted no more."""
    spec, folder, reasons = session.spec, session.folder, session.retried
    return [shard for shard in shards if not shard.is_whole(folder) or items_to_retry(spec, shard, folder, reasons)]


@task(task_run_name="mend-{session.spec.name}-{shard.index:05d}", **LOCAL_WORK)
async def mend_one_shard(session: Session, shard: ShardSpec, room: int) -> ShardOutcome:
    """Fetch what a finished shard lacks; if that cannot be had now either, the shard stays as it is.

    The source is unsealed first: until it is sealed again its manifest would not fit its shards.
    """
    folder, spec, concurrency = session.folder, session.spec, session.concurrency
    (folder / MANIFEST).unlink(missing_ok=True)
    there = read_outcome(folder, shard)
    try:
        with session.watched() as watch:
            if shard.is_whole(folder) or room <= 0:
                return await retry_shard(
                    session.source, spec, shard, folder, concurrency, watch, reasons=session.retried
                )
            if spec.item_is_document:  # what the shard has, an archive may have withdrawn meanwhile
                return await retry_shard(session.source, spec, shard, folder, concurrency, watch, room, session.retried)
            return await fetch_shard(session.source, spec, shard, folder, concurrency, room + there.documents)
    except TransientError as error:
        run_logger().warning("%s of %s stays as it is: %s", shard.file, spec.name, error)
        return there


@task(task_run_name="seal-{session.spec.name}", **LOCAL_WORK)
async def seal_source(session: Session, outcomes: Sequence[ShardOutcome]) -> SourceOutcome:
    """Write the manifest of a finished source."""
    return await asyncio.to_thread(seal, session.spec, session.layout, session.limit, outcomes)
