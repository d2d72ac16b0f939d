"""Acquisition as Prefect sees it: plan a source, fetch its shards, seal its folder."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import acreate_table_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.concurrency.asyncio import concurrency
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

from blocks.defaults import load_default
from blocks.hugging_face import HuggingFaceHub
from blocks.internet_archive import InternetArchive
from blocks.library_of_congress import LibraryOfCongress
from storage.atomic import remove_temporaries
from storage.errors import ParameterError, SourceUnavailable, StoreError
from storage.layout import Layout
from storage.manifest import Manifest, find_damage, read_manifest, record_shard, write_manifest
from storage.schemas import BANDS, Band, band_of
from storage.shard_plan import ShardPlan, ShardSpec, make_plan, read_plan, set_aside_unplanned, write_plan
from tasks.policies import ARCHIVE_WORK, LOCAL_WORK, Check, exclusive, run_logger, try_component
from tasks.sources.catalogue import SourceSpec, load_catalogue
from tasks.sources.shards import ShardOutcome as ShardOutcome  # flows see the outcomes, not the room
from tasks.sources.shards import fetch_shard, items_per_shard, read_outcome, request_key
from tasks.sources.source import Connection, Pace, Source, open_source


@dataclass(frozen=True)
class SourceOutcome:
    """What became of one source in a download."""

    source: str
    band: Band
    documents: int = 0
    rejects: int = 0
    reused: bool = False
    manifest: str = ""
    problem: str = ""

    @property
    def usable(self) -> bool:
        """Tell whether later stages can read this source."""
        return bool(self.manifest) and self.documents > 0


LEASE_SECONDS = 60.0
"""How long the slot of a killed worker stays taken; the shortest that Prefect allows."""
UNKNOWN_AUTHORITY = 0.5


def choose_sources(catalogue: str, names: Sequence[str]) -> list[SourceSpec]:
    """Return the sources that were named, or all that are not optional.

    Raises:
        ParameterError: A name is not in the catalogue.
    """
    known = load_catalogue(Path(catalogue) if catalogue else None)
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ParameterError(f"sources {unknown} are not in the catalogue; known are {sorted(known)}")
    return [known[name] for name in names] if names else [spec for spec in known.values() if not spec.optional]


def authority_band(spec: SourceSpec) -> Band:
    """Return the band that a source's prior authority belongs to."""
    return band_of(UNKNOWN_AUTHORITY if spec.prior_authority is None else spec.prior_authority)


async def connect() -> Connection:
    """Read how to reach the archives: the environment, overridden by saved blocks named ``default``.

    Secrets are read here, inside the process that uses them, and never become parameters.
    """
    saved = [
        await load_default(InternetArchive),
        await load_default(LibraryOfCongress),
        await load_default(HuggingFaceHub),
    ]
    for block in saved:
        if block is not None:
            os.environ.update(block.environment())  # the Hugging Face libraries read it when they are imported
    return Connection.from_environment()


def require_every_band(outcomes: Sequence[SourceOutcome]) -> None:
    """Go on while every authority band that was asked for keeps a source.

    Raises:
        SourceUnavailable: A band lost all its sources; the message says which and why.
    """
    lost = []
    for band in BANDS:
        asked = [outcome for outcome in outcomes if outcome.band == band]
        if asked and not any(outcome.usable for outcome in asked):
            reasons = "; ".join(f"{outcome.source}: {outcome.problem or 'no documents'}" for outcome in asked)
            lost.append(f"{band} authority ({reasons})")
    if lost:
        raise SourceUnavailable(
            f"no source is left for {' and '.join(lost)}; run again when it answers, or name other sources"
        )


def limit_name(spec: SourceSpec) -> str:
    """Name of the global concurrency limit that all workers share for an archive."""
    return f"archive-{spec.archive.replace('_', '-')}"


async def ensure_limits(specs: Sequence[SourceSpec]) -> None:
    """Create the archives' global limits that are missing; those that exist keep their value.

    A missing limit would let every worker pass, so the tasks below ask for it strictly.
    """
    async with get_client() as client:
        for name in sorted({limit_name(spec) for spec in specs}):
            try:
                await client.read_global_concurrency_limit_by_name(name)
            except ObjectNotFound:
                with contextlib.suppress(ObjectAlreadyExists):
                    await client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=1))


@dataclass
class Session:
    """One source being downloaded: its archive connection and its folder."""

    spec: SourceSpec
    limit: int
    folder: Path
    layout: Layout
    pace: Pace
    source: Source


@asynccontextmanager
async def open_session(spec: SourceSpec, layout: Layout, limit: int, pace: Pace) -> AsyncIterator[Session]:
    """Open a source for downloading at most `limit` documents."""
    folder = layout.raw(spec.name)
    workspace = layout.unfinished(spec.name)
    async with exclusive(folder), open_source(spec, await connect(), pace, workspace) as source:
        yield Session(spec, limit, folder, layout, pace, source)


def finished_download(spec: SourceSpec, layout: Layout, limit: int) -> SourceOutcome | None:
    """Return the outcome of an earlier download that asked for the same, if it is whole."""
    folder = layout.raw(spec.name)
    manifest = read_manifest(folder)
    if manifest is None or manifest.parameters.get("request") != request_key(spec, limit):
        return None
    damaged = find_damage(folder, manifest)
    if damaged:
        raise StoreError(f"{folder} lost or changed {damaged}; delete {folder / 'manifest.json'} to fetch them again")
    return SourceOutcome(
        spec.name,
        authority_band(spec),
        documents=manifest.rows,
        rejects=manifest.counts.get("rejects", 0),
        reused=True,
        manifest=str(folder / "manifest.json"),
    )


@task(task_run_name="plan-{session.spec.name}", **ARCHIVE_WORK)
async def plan_source(session: Session) -> ShardPlan:
    """List what a source offers and freeze it into shards, or take up the plan of an interrupted download."""
    request = request_key(session.spec, session.limit)
    plan = await asyncio.to_thread(read_plan, session.folder)
    if plan is None or plan.request != request:
        items = await session.source.plan(session.limit)
        if not items:
            raise SourceUnavailable(f"{session.spec.name}: the archive lists nothing for this query")
        plan = make_plan(session.spec.name, request, items, items_per_shard(session.spec))
        aside = session.layout.set_aside("raw", session.spec.name, request)
        moved = await asyncio.to_thread(set_aside_unplanned, session.folder, plan, aside)
        if moved:
            run_logger().info("%d files of an earlier request moved to %s", moved, aside)
        await asyncio.to_thread(write_plan, session.folder, plan)
    await asyncio.to_thread(remove_temporaries, session.folder)
    return plan


def finished_shard(session: Session, shard: ShardSpec) -> ShardOutcome | None:
    """Return the outcome of a shard that an earlier run finished."""
    return read_outcome(session.folder, shard) if shard.is_finished(session.folder) else None


@task(task_run_name="fetch-{session.spec.name}-{shard.index:05d}", **ARCHIVE_WORK)
async def fetch_one_shard(session: Session, shard: ShardSpec, room: int) -> ShardOutcome:
    """Fetch the items of one shard into Parquet; the file appears only when whole.

    The global limit of the archive is taken once per shard, so that all workers together keep its pace.
    """
    async with concurrency(limit_name(session.spec), strict=True, lease_duration=LEASE_SECONDS):
        return await fetch_shard(session.source, session.spec, shard, session.folder, session.pace.concurrency, room)


@task(task_run_name="seal-{session.spec.name}", **LOCAL_WORK)
def seal_source(session: Session, outcomes: Sequence[ShardOutcome]) -> SourceOutcome:
    """Write the manifest of a finished source."""
    reasons: Counter[str] = Counter()
    for outcome in outcomes:
        reasons.update(outcome.reasons)
    manifest = Manifest(
        kind="raw",
        name=session.spec.name,
        parameters={"request": request_key(session.spec, session.limit), "limit": session.limit},
        shards=[record_shard(session.folder, session.folder / outcome.file) for outcome in outcomes],
        counts={"documents": sum(outcome.documents for outcome in outcomes), "rejects": reasons.total()},
        notes={
            "rejects_by_reason": dict(sorted(reasons.items())),
            "licence": session.spec.licence,
            "trivium": session.spec.trivium,
        },
    )
    write_manifest(session.folder, manifest)
    shutil.rmtree(session.layout.unfinished(session.spec.name), ignore_errors=True)
    return SourceOutcome(
        session.spec.name,
        authority_band(session.spec),
        documents=manifest.rows,
        rejects=reasons.total(),
        manifest=str(session.folder / "manifest.json"),
    )


def shard_row(source: str, outcome: ShardOutcome, *, kept: bool) -> dict[str, Any]:
    """Describe a shard as a row of a table artifact, whose cells show plain values only."""
    reasons = ", ".join(f"{count} {reason}" for reason, count in outcome.reasons.items())
    return {
        "source": source,
        "shard": outcome.file,
        "state": "kept" if kept else "fetched",
        "documents": outcome.documents,
        "rejected": reasons or "none",
        "kilobytes": round(outcome.bytes / 1000, 1),
    }


@task(task_run_name="report-shards", **LOCAL_WORK)
async def report_shards(outcomes: Sequence[SourceOutcome], shards: Sequence[dict[str, Any]]) -> None:
    """Show the results of the download as table artifacts: one row per source, one per shard."""
    await acreate_table_artifact(
        key="download-sources",
        table=[
            {
                "source": outcome.source,
                "authority": outcome.band,
                "documents": outcome.documents,
                "rejected": outcome.rejects,
                "state": outcome.problem or ("already complete" if outcome.reused else "fetched"),
            }
            for outcome in outcomes
        ],
        description="What every source gave in this download.",
    )
    if shards:
        await acreate_table_artifact(
            key="download-shards", table=list(shards), description="Shards fetched or taken up by this run."
        )


@task(task_run_name="check-catalogue", **LOCAL_WORK)
async def check_catalogue(catalogue: str) -> Check:
    """Read the catalogue and the connections."""

    async def work() -> str:
        specs = load_catalogue(Path(catalogue) if catalogue else None)
        connection = await connect()
        contact = connection.contact or "none; set DISTRUST_CONTACT so that archives can reach you"
        return f"{len(specs)} sources; contact: {contact}"

    return await try_component("catalogue", work)
