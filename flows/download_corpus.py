"""Download: plan every source, fetch its missing shards, complete it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

from prefect import flow

from flows.forms import DownloadCorpusForm, DownloadCorpusParameters
from flows.names import named
from flows.parameters import takes
from flows.records import recorded
from storage.errors import DatasetBusy, DistrustError
from storage.layout import Layout
from tasks import acquisition, archives, download_report
from tasks.acquisition import SourceDownload
from tasks.chain import announce_sealed
from tasks.policies import run_logger
from tasks.sources.catalogue import SourceSpec
from tasks.sources.connection import Archives, Pace
from tasks.sources.results import CatalogueResult, DownloadResult, ShardOutcome, SourceOutcome, SurveyResult


@dataclass
class Download:
    """One download under way, over all its sources."""

    parameters: DownloadCorpusParameters
    layout: Layout
    archives: Archives
    shards: dict[str, list[ShardOutcome]] = field(default_factory=dict)
    refreshed: set[str] = field(default_factory=set)


@flow(name="download-corpus", flow_run_name=named("download-corpus"))
@takes(DownloadCorpusForm)
async def download_corpus(parameters: DownloadCorpusForm) -> DownloadResult | CatalogueResult | SurveyResult:
    """Pull documents from the archives into Parquet; a second run fetches only what is missing."""
    layout = await parameters.open_store()
    if parameters.list_catalogue:
        return archives.list_catalogue(parameters.catalogue, layout)
    specs = await choose_sources(parameters)
    pace = Pace(parameters.concurrency, parameters.rate_limit)
    if parameters.dry_run:
        return await archives.survey(specs, parameters.max_samples, pace)
    async with archives.open_archives(pace, parameters.patience_hours) as opened:
        download = Download(parameters, layout, opened)
        async with recorded(parameters, layout, reads=[], writes=[f"raw/{spec.name}" for spec in specs]):
            # Sources of one archive take turns, so that its pace holds whatever their number; archives do not wait.
            patience_seconds = 3600 * parameters.patience_hours
            groups = await asyncio.gather(
                *(
                    archives.download_in_rounds(group, layout, patience_seconds, partial(download_source, download))
                    for group in archives.by_archive(specs)
                )
            )
    result = DownloadResult(sources=[outcome for outcomes in groups for outcome in outcomes])
    await download_report.report_download(result, download.shards)
    result.require_every_band()
    announce_sealed("raw", "corpus", parameters.store, sources=result.usable_sources)
    return result


async def choose_sources(parameters: DownloadCorpusParameters) -> list[SourceSpec]:
    """Return the sources of the catalogue that are wanted, and the user's own documents."""
    own = None
    if parameters.path:
        own = archives.OwnDocuments(parameters.path, parameters.source_type, parameters.name, parameters.text_column)
    return await asyncio.to_thread(
        archives.choose_sources,
        parameters.catalogue,
        parameters.sources,
        bulk=parameters.bulk,
        own=own,
        subjects=parameters.subjects,
    )


async def download_source(download: Download, spec: SourceSpec) -> SourceOutcome:
    """Download one source; one that cannot be read is reported, and the others go on.

    Raises:
        DatasetBusy: Another run is downloading it.
    """
    parameters, layout = download.parameters, download.layout
    limit = min(spec.target, parameters.max_samples)
    try:
        if parameters.refresh and not parameters.subjects:
            spec = acquisition.about_the_same(spec, layout)
        earlier = acquisition.finished_download(spec, layout, limit)
        if earlier is not None and not (parameters.refresh or parameters.retry_failed):
            return earlier
        async with acquisition.open_download(
            spec, layout, limit, download.archives, retry_failed=parameters.retry_failed
        ) as source:
            return await fetch_missing(download, source)
    except DatasetBusy:
        raise
    except DistrustError as error:
        run_logger().error("source %s is incomplete: %s", spec.name, error)
        return acquisition.failed_download(spec, layout, limit, error)


async def fetch_missing(download: Download, source: SourceDownload) -> SourceOutcome:
    """Fetch every missing shard of a source, mend those with failed items, and complete the source."""
    parameters, layout, name = download.parameters, download.layout, source.spec.name
    # A source that is run again continues with its extended plan; a new refresh would extend it each time.
    plan = await acquisition.plan_source(source, layout, refresh=parameters.refresh and name not in download.refreshed)
    download.refreshed.add(name)
    limit = max(source.limit, plan.wanted)
    plan, done = await acquisition.fetch_shards(source, layout, plan, limit)

    def room() -> int:
        return limit - sum(outcome.documents for outcome in done)

    if parameters.retry_failed or room() > 0:
        for shard in islice(plan.shards, len(done)):
            if source.lacks_documents(shard):
                done[shard.index] = await acquisition.mend_shard(source, shard, room())
    download.shards[name] = done
    return await acquisition.complete_source(source, layout, done)
