"""Download: plan every source, fetch its missing shards, seal it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from prefect import flow
from pydantic import AliasChoices, Field

from flows.parameters import FlowParameters, takes
from storage.errors import DatasetBusy, DistrustError
from storage.layout import Layout
from tasks import acquisition, archives, download_report
from tasks.acquisition import Session
from tasks.chain import announce_sealed
from tasks.mirroring import shared
from tasks.policies import ensure_limits, run_logger, shown_progress
from tasks.sources.catalogue import SourceSpec
from tasks.sources.outcome import SourceOutcome
from tasks.sources.source import Archives, Pace

BUSY_POLL_SECONDS = 2.0
"""How often to look whether another run is done with a source."""


class DownloadCorpusParameters(FlowParameters):
    """What to download, and how politely."""

    sources: list[str] = Field([], title="Sources", description="Catalogue names; empty: all that are not optional.")
    max_samples: int = Field(30_000, ge=1, title="Max samples", description="Most documents per source.")
    concurrency: int = Field(10, ge=1, le=64, title="Concurrency", description="Requests under way at once per source.")
    rate_limit: float = Field(
        10.0, gt=0, le=1000, title="Rate limit", description="Most requests per second to an archive."
    )
    catalogue: str = Field("", title="Catalogue", description="A TOML file that adds to or overrides the catalogue.")
    bulk: bool = Field(False, title="Bulk", description="Read newspapers from the library's bulk files.")
    refresh: bool = Field(
        False, title="Refresh", description="Fetch up to max-samples documents that are new since the last download."
    )
    retry_failed: bool = Field(
        False, title="Retry failed", description="Fetch items again that could not be had for a reason that may pass."
    )
    patience_hours: float = Field(
        48.0, ge=0, le=1000, title="Patience", description="How long an archive that stopped answering is waited for."
    )


class DownloadCorpusForm(DownloadCorpusParameters):
    """The download on its own can also only look."""

    list_catalogue: bool = Field(
        False,
        title="List",
        validation_alias=AliasChoices("list", "list_catalogue"),
        description="Only list the catalogue and what of it is on disk.",
    )
    dry_run: bool = Field(
        False, title="Dry run", description="Only ask how much there is and estimate bytes and hours."
    )


@dataclass
class Download:
    """One download under way, over all its sources."""

    parameters: DownloadCorpusParameters
    layout: Layout
    reach: Archives
    shards: list[dict[str, Any]] = field(default_factory=list)
    refreshed: set[str] = field(default_factory=set)

    def limit(self, spec: SourceSpec) -> int:
        """How many documents a source is asked for."""
        return min(spec.target, self.parameters.max_samples)


@flow(name="download-corpus", flow_run_name="download-corpus")
@takes(DownloadCorpusForm)
async def download_corpus(parameters: DownloadCorpusForm) -> dict[str, Any]:
    """Pull documents from the archives into Parquet; a second run fetches only what is missing."""
    layout = await parameters.open_store()
    if parameters.list_catalogue:
        return {"catalogue": archives.list_catalogue(archives.every_source(parameters.catalogue), layout)}
    specs = archives.choose_sources(parameters.catalogue, parameters.sources, bulk=parameters.bulk)
    await ensure_limits(spec.limit_name for spec in specs)
    pace = Pace(parameters.concurrency, parameters.rate_limit)
    if parameters.dry_run:
        limits = {spec.name: min(spec.target, parameters.max_samples) for spec in specs}
        return {"survey": await archives.survey(specs, limits, pace)}
    async with archives.open_archives(pace, parameters.patience_hours) as reach:
        download = Download(parameters, layout, reach)
        # Sources of one archive take turns, so that its pace holds whatever their number; archives do not wait.
        names = sorted({spec.archive for spec in specs})
        async with shared(layout, reads=[], writes=[f"raw/{spec.name}" for spec in specs]):
            groups = await asyncio.gather(
                *(download_archive(download, [spec for spec in specs if spec.archive == name]) for name in names)
            )
    outcomes = [outcome for group in groups for outcome in group]
    await download_report.report_shards(outcomes, download.shards)
    download_report.require_every_band(outcomes)
    announce_sealed(
        "raw", "corpus", parameters.store, sources=[outcome.source for outcome in outcomes if outcome.usable]
    )
    return {"sources": [vars(outcome) for outcome in outcomes]}


async def download_archive(download: Download, specs: Sequence[SourceSpec]) -> list[SourceOutcome]:
    """Download the sources of one archive; those that cannot be read for now come round again.

    A source that another run is downloading is passed over, and looked at again when the others are done: two runs
    share the work, and both end when all of it is done.
    """
    outcomes: dict[str, SourceOutcome] = {}
    folders = [download.layout.raw(spec.name) for spec in specs]
    rounds = acquisition.Rounds(folders, 3600 * download.parameters.patience_hours)
    pending, told = list(specs), False
    while pending:
        found = [(spec, await download_source(download, spec)) for spec in pending]
        outcomes |= {spec.name: outcome for spec, outcome in found if outcome}
        if busy := [spec for spec, outcome in found if outcome is None]:
            if not told:
                run_logger().info("%s: another run is at it; waiting", ", ".join(spec.name for spec in busy))
            pending, told = busy, True
            await asyncio.sleep(BUSY_POLL_SECONDS)
            continue
        pending = [spec for spec in specs if outcomes[spec.name].passing]
        wait = rounds.next_wait() if pending else None
        if wait is None:
            break
        run_logger().warning("%s: next try in %.0f s", ", ".join(spec.name for spec in pending), wait)
        await asyncio.sleep(wait)
    return [outcomes[spec.name] for spec in specs]


async def download_source(download: Download, spec: SourceSpec) -> SourceOutcome | None:
    """Download one source; one that cannot be read is reported, and the others go on. None: another run is at it."""
    parameters, layout, limit = download.parameters, download.layout, download.limit(spec)
    try:
        earlier = acquisition.finished_download(spec, layout, limit)
        if earlier is not None and not (parameters.refresh or parameters.retry_failed):
            return earlier
        async with (
            acquisition.only_downloader(spec, layout),
            shown_progress(f"download-{spec.name.replace('_', '-')}", spec.name) as progress,
            acquisition.open_session(
                spec, layout, limit, download.reach, progress, retry_failed=parameters.retry_failed
            ) as session,
        ):
            return await fetch_missing(download, session)
    except DatasetBusy:
        return None
    except DistrustError as error:
        run_logger().error("source %s is incomplete: %s", spec.name, error)
        return acquisition.failed_download(spec, layout, limit, error)


async def fetch_missing(download: Download, session: Session) -> SourceOutcome:
    """Fetch every shard of a source that is not there, mend those with failed items, and seal the source."""
    parameters = download.parameters
    # A source that comes round again goes on with the plan that was added to; asked anew, it would add to it each time.
    refresh = parameters.refresh and session.spec.name not in download.refreshed
    plan = await acquisition.plan_source(session, refresh=refresh)
    download.refreshed.add(session.spec.name)
    limit = max(session.limit, plan.wanted)
    plan, done = await acquisition.fetch_shards(session, plan, limit)
    if parameters.retry_failed or sum(outcome.documents for outcome in done) < limit:
        for shard in acquisition.shards_to_mend(session, islice(plan.shards, len(done))):
            room = limit - sum(outcome.documents for outcome in done)
            done[shard.index] = await acquisition.mend_one_shard(session, shard, room)
    download.shards += [download_report.shard_row(session.spec.name, outcome) for outcome in done]
    return await acquisition.seal_source(session, done)
