"""Download: plan shards per source, fetch the missing ones, seal ``raw/<source>``."""

from __future__ import annotations

import asyncio
from typing import Any

from prefect import flow
from pydantic import Field

from flows.parameters import FlowParameters, takes
from storage.errors import DistrustError
from storage.layout import Layout
from tasks import acquisition
from tasks.acquisition import ShardOutcome, SourceOutcome
from tasks.policies import Tally, run_logger, shown_progress
from tasks.sources.catalogue import SourceSpec
from tasks.sources.source import Pace


class DownloadCorpusParameters(FlowParameters):
    """What to download, and how politely."""

    sources: list[str] = Field([], title="Sources", description="Catalogue names; empty: all that are not optional.")
    max_samples: int = Field(30_000, ge=1, title="Max samples", description="Most documents per source.")
    concurrency: int = Field(10, ge=1, le=64, title="Concurrency", description="Requests under way at once per source.")
    rate_limit: float = Field(
        10.0, gt=0, le=1000, title="Rate limit", description="Most requests per second to an archive."
    )
    catalogue: str = Field("", title="Catalogue", description="A TOML file that adds to or overrides the catalogue.")


@flow(name="download-corpus", flow_run_name="download-corpus")
@takes(DownloadCorpusParameters)
async def download_corpus(parameters: DownloadCorpusParameters) -> dict[str, Any]:
    """Pull documents from the archives into Parquet; a second run fetches only what is missing."""
    layout = await parameters.open_store()
    specs = acquisition.choose_sources(parameters.catalogue, parameters.sources)
    await acquisition.ensure_limits(specs)
    shards: list[dict[str, Any]] = []
    async with shown_progress("download", "Documents fetched, all sources") as progress:
        tally = Tally(progress, {spec.name: min(spec.target, parameters.max_samples) for spec in specs})

        async def download_in_turn(archive: str) -> list[SourceOutcome]:
            # Sources of one archive take turns, so that the archive's pace holds whatever their number.
            mine = [spec for spec in specs if spec.archive == archive]
            return [await download_source(spec, layout, parameters, tally, shards) for spec in mine]

        archives = sorted({spec.archive for spec in specs})
        outcomes = [o for group in await asyncio.gather(*map(download_in_turn, archives)) for o in group]
    await acquisition.report_shards(outcomes, shards)
    acquisition.require_every_band(outcomes)
    return {"sources": [vars(outcome) for outcome in outcomes]}


async def download_source(
    spec: SourceSpec, layout: Layout, parameters: DownloadCorpusParameters, tally: Tally, shards: list[dict[str, Any]]
) -> SourceOutcome:
    """Download one source; a source that cannot be read is reported, and the others go on."""
    limit = tally.targets[spec.name]
    try:
        outcome = acquisition.finished_download(spec, layout, limit)
        if outcome is None:
            pace = Pace(parameters.concurrency, parameters.rate_limit)
            async with acquisition.open_session(spec, layout, limit, pace) as session:
                plan = await acquisition.plan_source(session)
                fetched: list[ShardOutcome] = []
                for shard in plan.shards:
                    room = limit - sum(done.documents for done in fetched)
                    if room <= 0:
                        break
                    there = acquisition.finished_shard(session, shard)
                    fetched.append(there or await acquisition.fetch_one_shard(session, shard, room))
                    tally.note(spec.name, fetched[-1].documents)
                    shards.append(acquisition.shard_row(spec.name, fetched[-1], kept=there is not None))
                outcome = acquisition.seal_source(session, fetched)
    except DistrustError as error:
        run_logger().error("source %s is skipped: %s", spec.name, error)
        outcome = SourceOutcome(spec.name, acquisition.authority_band(spec), problem=str(error))
    tally.finish(spec.name)
    return outcome
