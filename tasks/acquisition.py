"""Acquisition as Prefect sees it: plan a source, fetch its shards, complete its folder."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
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
from tasks.policies import LOCAL_WORK, archive_turn, exclusive, run_logger, shown_progress
from tasks.sources.catalogue import SourceSpec
from tasks.sources.connection import Archives
from tasks.sources.opening import open_source
from tasks.sources.raw_dataset import complete_download, read_outcome, request_key
from tasks.sources.raw_dataset import failed_download as failed_download
from tasks.sources.raw_dataset import finished_download as finished_download
from tasks.sources.results import ShardOutcome, SourceOutcome
from tasks.sources.shards import SourceDownload as SourceDownload
from tasks.sources.shards import items_per_shard, most_documents
from tasks.sources.source import MENDABLE, PASSING
from tasks.sources.subjects import about
from tasks.sources.throughput import Throughput

SHARDS_AT_ONCE = 2


def about_the_same(spec: SourceSpec, layout: Layout) -> SourceSpec:
    """Return the entry with the subjects that the download on disk asked for, as a refresh goes on with them.

    Raises:
        StoreError: The plan on disk is damaged.
    """
    plan = read_plan(layout.raw(spec.name))
    return about(spec, plan.subjects) if plan and plan.subjects else spec


@asynccontextmanager
async def open_download(
    spec: SourceSpec, layout: Layout, limit: int, archives: Archives, *, retry_failed: bool = False
) -> AsyncIterator[SourceDownload]:
    """Open a source for downloading at most `limit` documents, and show how far it is.

    Meanwhile no other run writes the source, and no other process of this machine asks its archive.

    Raises:
        DatasetBusy: On entry, if another run is downloading the source.
    """
    folder, concurrency = layout.raw(spec.name), archives.pace.concurrency
    async with (
        exclusive(folder, patience_seconds=0.0),
        shown_progress(f"download-{spec.name.replace('_', '-')}", spec.name) as progress,
        archive_turn(archives.host_in_turn(spec)),
        open_source(spec, archives, layout.unfinished(spec.name)) as source,
    ):
        await asyncio.to_thread(remove_temporaries, folder)
        throughput = Throughput(limit, lambda done, line: progress.update(done, 1.0, f"{spec.name}: {line}"))
        retried = MENDABLE if retry_failed else PASSING
        yield SourceDownload(source, spec, folder, concurrency, limit, retried, throughput)


@task(task_run_name="plan-{download.spec.name}", **LOCAL_WORK)
async def plan_source(download: SourceDownload, layout: Layout, *, refresh: bool = False) -> ShardPlan:
    """List what a source offers and freeze it into shards, or go on with the plan of an interrupted download.

    With `refresh`, items that the plan of a complete source does not hold yet are added to it.

    Raises:
        SourceUnavailable: The archive finds nothing, or cannot be read at all.
        TransientError: The archive cannot be read for now.
        StoreError: The plan on disk is damaged.
    """
    spec, folder, limit = download.spec, download.folder, download.limit
    request = request_key(spec, limit)
    plan = await asyncio.to_thread(read_plan, folder)
    if plan is None or plan.request != request:
        items = await download.source.plan(limit)
        if not items:
            asked = "query, dates or subjects" if spec.subjects else "query or dates"
            raise SourceUnavailable(f"{spec.name}: the archive finds nothing for this entry; change its {asked}")
        aside = layout.set_aside("raw", spec.name, plan.request if plan else request)
        plan = make_plan(spec.name, request, items, items_per_shard(spec), before=plan.shards if plan else ())
        if moved := await asyncio.to_thread(set_aside_unplanned, folder, plan, aside):
            run_logger().warning("%d files of an earlier request were moved to %s", moved, aside)
        plan = await asyncio.to_thread(write_plan, folder, _described(download, plan))
    elif refresh and (folder / MANIFEST).is_file():  # what was never completed is finished first
        known = {item.native_id: item for shard in plan.shards for item in shard.items}
        items = await download.source.plan(limit, known)
        run_logger().info("%s: %d items are new since the last plan", spec.name, len(items))
        wanted = limit + await asyncio.to_thread(_count_documents, plan, folder)
        plan = extend_plan(plan, items, items_per_shard(spec), wanted)
        plan = await asyncio.to_thread(write_plan, folder, _described(download, plan))
    wanted = max(limit, plan.wanted)
    most = await asyncio.to_thread(most_documents, spec, plan)
    download.throughput.wanted = wanted if most is None else min(wanted, most)
    return plan


def _described(download: SourceDownload, plan: ShardPlan) -> ShardPlan:
    """Log what a person should know of the listing, and keep it with the plan, and what was asked for."""
    if remark := download.source.remark:
        run_logger().warning("%s: %s", download.spec.name, remark)
    return replace(plan, remark=remark, subjects=download.spec.subjects)


def _count_documents(plan: ShardPlan, folder: Path) -> int:
    finished = (shard for shard in plan.shards if shard.is_finished(folder))
    return sum(read_outcome(folder, shard).documents for shard in finished)


@task(task_run_name="fetch-{download.spec.name}-{shard.index:05d}", **LOCAL_WORK)
async def fetch_shard(
    download: SourceDownload,
    layout: Layout,
    shard: ShardSpec,
    room: int,
    behind: Sequence[ShardSpec] = (),
    join: Callable[[int], ShardSpec] | None = None,
) -> ShardOutcome:
    """Fetch the items of one shard into Parquet; the file appears only when whole."""
    outcome = await download.fetch(shard, room, behind, join)
    run_logger().info("%s: %d documents; rejected: %s", outcome.file, outcome.documents, outcome.describe_rejects())
    push = partial(asyncio.to_thread, layout.push, f"raw/{download.spec.name}")
    await in_turn(push, run_logger().warning)
    return outcome


async def fetch_shards(
    download: SourceDownload, layout: Layout, plan: ShardPlan, limit: int
) -> tuple[ShardPlan, list[ShardOutcome]]:
    """Fetch the shards of a plan that are missing, in order, until there are `limit` documents.

    Returns:
        The plan, whose shards of rows may have been joined, and the outcomes of its first shards.
    """
    if download.spec.item_is_document:
        return plan, await _fetch_overlapping(download, layout, plan, limit)
    done: list[ShardOutcome] = []
    while (index := len(done)) < len(plan.shards) and (room := limit - _total(done)) > 0:
        shard = plan.shards[index]
        if (outcome := _finished_shard(download, shard)) is None:
            # A shard of whose rows few are kept takes in those behind it.
            behind = plan.shards[index + 1 :] if download.spec.is_rows else []
            if any(later.is_finished(download.folder) for later in behind):  # this one was lost; they keep their places
                behind = []
            join = partial(_join, download.folder, plan, index)
            outcome = await fetch_shard(download, layout, shard, room, behind, join)
            plan = read_plan(download.folder) or plan
        done.append(outcome)
    return plan, done


def _total(outcomes: Iterable[ShardOutcome]) -> int:
    return sum(outcome.documents for outcome in outcomes)


def _finished_shard(download: SourceDownload, shard: ShardSpec) -> ShardOutcome | None:
    """Return the outcome of a shard that an earlier run finished."""
    if not shard.is_finished(download.folder):
        return None
    outcome = read_outcome(download.folder, shard)
    download.throughput.note_kept(outcome.documents, outcome.reasons)
    return outcome


def _join(folder: Path, plan: ShardPlan, index: int, count: int) -> ShardSpec:
    return write_plan(folder, join_shards(plan, index, count)).shards[index]


async def _fetch_overlapping(
    download: SourceDownload, layout: Layout, plan: ShardPlan, limit: int
) -> list[ShardOutcome]:
    """Begin the next shard while the last items of one are tried again: the archive's pace is used up.

    What one shard may still bring is counted as brought, so that the limit holds.
    """
    done: dict[int, ShardOutcome] = {}
    running: dict[int, asyncio.Task[ShardOutcome]] = {}

    def room() -> int:
        return limit - _total(done.values()) - sum(plan.shards[index].size for index in running)

    async def finish_oldest() -> None:
        index = min(running)
        done[index] = await running[index]
        del running[index]

    try:
        for shard in plan.shards:
            while running and (len(running) >= SHARDS_AT_ONCE or room() < shard.size):
                await finish_oldest()
            if (left := room()) <= 0:
                break
            if finished := _finished_shard(download, shard):
                done[shard.index] = finished
            else:
                running[shard.index] = asyncio.create_task(fetch_shard(download, layout, shard, left))
        while running:
            await finish_oldest()
    except asyncio.CancelledError:
        for fetching in running.values():
            fetching.cancel()
        raise
    finally:
        # A shard that is under way when another fails need not be lost.
        await asyncio.gather(*running.values(), return_exceptions=True)
    return [done[index] for index in sorted(done)]


@task(task_run_name="mend-{download.spec.name}-{shard.index:05d}", **LOCAL_WORK)
async def mend_shard(download: SourceDownload, shard: ShardSpec, room: int) -> ShardOutcome:
    """Fetch what a finished shard lacks; if that fails again, the shard stays as it is.

    The manifest is removed first: until it is written again it would not fit the shards.
    """
    (download.folder / MANIFEST).unlink(missing_ok=True)
    before = read_outcome(download.folder, shard)
    try:
        if shard.is_whole(download.folder) or room <= 0:
            return await download.retry(shard)
        if download.spec.item_is_document:  # an archive may have withdrawn what the shard has
            return await download.retry(shard, room)
        again = replace(download, throughput=Throughput(0))  # what the shard has is counted already
        return await again.fetch(shard, room + before.documents)
    except TransientError as error:
        run_logger().warning("%s of %s is left unchanged: %s", shard.file, download.spec.name, error)
        return before


@task(task_run_name="seal-{download.spec.name}", **LOCAL_WORK)
async def complete_source(download: SourceDownload, layout: Layout, outcomes: Sequence[ShardOutcome]) -> SourceOutcome:
    """Write the manifest of a finished source."""
    return await asyncio.to_thread(complete_download, download.spec, layout, download.limit, outcomes)
