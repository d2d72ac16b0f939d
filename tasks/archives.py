"""The archives as Prefect sees them: which sources there are, how they are reached, what they would take."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from prefect import task

from blocks.defaults import heed_saved
from blocks.hugging_face import HuggingFaceHub
from blocks.internet_archive import InternetArchive
from blocks.library_of_congress import LibraryOfCongress
from storage.errors import DatasetBusy, SourceUnavailable
from storage.layout import Layout
from storage.manifest import read_manifest
from storage.shard_plan import read_plan
from storage.vocabulary import BANDS
from tasks.policies import LOCAL_WORK, Check, run_logger, try_component
from tasks.shared_pace import SharedPace
from tasks.sources.catalogue import SourceSpec, load_catalogue, named_sources
from tasks.sources.connection import Archives, Connection, Pace
from tasks.sources.own_documents import OwnDocuments as OwnDocuments
from tasks.sources.results import CatalogueResult, CatalogueRow, SourceOutcome, SurveyResult, SurveyRow
from tasks.sources.subject_list import read_subjects
from tasks.sources.subjects import WAYS, about, way_of
from tasks.sources.survey import estimate, nothing_known, survey_source
from tasks.sources.web import Web

SURVEY_SECONDS = 10.0
"""How long a source is asked how much it has."""
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 30.0, 3600.0
WORTH_SAYING_HOURS = 0.1
BUSY_POLL_SECONDS = 2.0
"""How often to look whether another run has finished with a source."""


def choose_sources(
    catalogue: str, names: Sequence[str], *, bulk: bool = False, own: OwnDocuments | None = None, subjects: str = ""
) -> list[SourceSpec]:
    """Return the sources that were named, or all that are not optional; with `bulk`, newspapers as bulk files.

    Documents of the user's own come first; without names, they come alone. Where `subjects` names a list, every source
    that can be asked by subject asks for those.

    Raises:
        ParameterError: A name is not in the catalogue, or the list of subjects cannot be read.
    """
    known = load_catalogue(Path(catalogue) if catalogue else None)
    chosen = named_sources(known, names) if names or own is None else []
    newspapers = {"bulk": True} if bulk else {}
    chosen = [spec.model_copy(update=newspapers) if spec.archive == "chronicling_america" else spec for spec in chosen]
    if subjects:
        listed = read_subjects(subjects)
        chosen = [about(spec, listed) for spec in chosen]
        many = "1 subject" if len(listed) == 1 else f"{len(listed)} subjects"
        for way, meaning in WAYS.items():
            if of_this_way := [spec.name for spec in chosen if way_of(spec) == way]:
                run_logger().info("%s; %s: %s", many, meaning, ", ".join(of_this_way))
    return [own.spec(known), *chosen] if own else chosen


def by_archive(specs: Sequence[SourceSpec]) -> list[list[SourceSpec]]:
    """Group sources by their archive, in the order of the archives' names."""
    names = sorted({spec.archive for spec in specs})
    return [[spec for spec in specs if spec.archive == name] for name in names]


async def connect() -> Connection:
    """Read how to reach the archives: the environment, overridden by saved blocks named ``default``.

    Secrets are read here, inside the process that uses them, and never become parameters.
    """
    # The Hugging Face libraries read their variables when they are imported.
    await heed_saved(InternetArchive, LibraryOfCongress, HuggingFaceHub)
    return Connection.from_environment()


@asynccontextmanager
async def open_archives(pace: Pace, patience_hours: float) -> AsyncIterator[Archives]:
    """Open what all sources of a download share; wait up to `patience_hours` for an archive that answered before."""
    connection = await connect()
    # What is loaded by now stays: a full collection that walks through it holds up every request for .4 s.
    gc.freeze()
    log, patience_seconds = run_logger(), 3600 * patience_hours
    async with Web(
        connection.contact, patience_seconds=patience_seconds, notify=log.warning, share=SharedPace().turn
    ) as web:
        yield Archives(connection, pace, web)


def list_catalogue(catalogue: str, layout: Layout) -> CatalogueResult:
    """Describe every source and what of it is on disk, by authority band; also those that are fetched when named."""
    specs = load_catalogue(Path(catalogue) if catalogue else None).values()
    return CatalogueResult(
        catalogue=[_catalogue_row(spec, layout) for spec in sorted(specs, key=lambda spec: BANDS.index(spec.band))]
    )


def _catalogue_row(spec: SourceSpec, layout: Layout) -> CatalogueRow:
    folder = layout.raw(spec.name)
    manifest, plan = read_manifest(folder), read_plan(folder)
    finished = sum(shard.is_finished(folder) for shard in plan.shards) if plan else 0
    return CatalogueRow(
        source=spec.name,
        band=spec.band,
        archive=spec.archive,
        target=spec.target,
        optional=spec.optional,
        documents=manifest.rows if manifest else 0,
        shards=f"{finished} of {len(plan.shards)}" if plan else "",
        sealed=manifest is not None,
        by_subject=way_of(spec),
        licence=spec.licence,
        note=spec.note,
    )


@task(task_run_name="survey-{spec.name}", **LOCAL_WORK)
async def survey_one(spec: SourceSpec, limit: int, archives: Archives) -> SurveyRow:
    """Ask a source how much it has, and estimate what its download would take; nothing is written."""
    return await survey_source(spec, limit, archives, SURVEY_SECONDS)


async def survey(specs: Sequence[SourceSpec], max_samples: int, pace: Pace) -> SurveyResult:
    """Ask every source how much it has: all archives at once, each source with one short try.

    Raises:
        SourceUnavailable: Not one source could be asked; the message says which archives are out of reach.
    """
    connection = await connect()
    async with Web(connection.contact, patience_seconds=0.0, silence_seconds=SURVEY_SECONDS) as web:
        archives = Archives(connection, replace(pace, attempts=1), web)

        async def ask(group: Sequence[SourceSpec]) -> list[SurveyRow]:
            rows: list[SurveyRow] = []
            for spec in group:
                limit = min(spec.target, max_samples)
                if rows and rows[-1].unreachable:  # an archive that does not answer is not asked for its other sources
                    rows.append(rows[-1].model_copy(update={"source": spec.name, "band": spec.band, "wanted": limit}))
                else:
                    rows.append(await survey_one(spec, limit, archives))
            return rows

        # Questions are asked beside a download that is under way, and do not wait for it.
        groups = await asyncio.gather(*map(ask, by_archive(specs)))
    found = {row.source: row for rows in groups for row in rows}
    rows = [found[spec.name] for spec in specs]
    if rows and all(row.problem for row in rows):
        raise SourceUnavailable(nothing_known(rows))
    return SurveyResult(survey=rows)


async def foresee_download(specs: Sequence[SourceSpec], max_samples: int, pace: Pace, layout: Layout) -> str:
    """Say what a download will take at most, by typical sizes; nobody is asked. Empty if that is next to nothing."""
    connection = await connect()
    async with Web(connection.contact, patience_seconds=0.0) as web:
        archives = Archives(connection, pace, web)
        rows = [
            estimate(spec, None, min(spec.target, max_samples), archives)
            for spec in specs
            if read_manifest(layout.raw(spec.name)) is None
        ]
    hours = [sum(row.hours for row in rows if row.archive == name) for name in {row.archive for row in rows}]
    if max(hours, default=0.0) < WORTH_SAYING_HOURS:
        return ""
    gigabytes = sum(row.bytes for row in rows) / 1e9
    return f"the download takes at most about {max(hours):.1f} h and {gigabytes:.1f} GB of disk"


async def download_in_rounds(
    specs: Sequence[SourceSpec],
    layout: Layout,
    patience_seconds: float,
    download: Callable[[SourceSpec], Awaitable[SourceOutcome]],
) -> list[SourceOutcome]:
    """Download sources in turn, and again, after longer and longer pauses, those that failed for now.

    A source that another run is downloading is passed over, and comes again when the others are done: two runs share
    the work, and both end when all of it is done.
    """
    outcomes: dict[str, SourceOutcome] = {}
    announced: set[str] = set()

    async def is_done(spec: SourceSpec) -> bool:
        try:
            outcomes[spec.name] = await download(spec)
        except DatasetBusy as error:
            if spec.name not in announced:
                run_logger().warning("%s", error.waiting)
            announced.add(spec.name)
            return False
        return True

    pending = list(specs)
    for pause in growing_pauses([layout.raw(spec.name) for spec in specs], patience_seconds):
        if pause:
            run_logger().warning("%s: next try in %.0f s", ", ".join(spec.name for spec in pending), pause)
        await asyncio.sleep(pause)
        while pending := [spec for spec in pending if not await is_done(spec)]:
            await asyncio.sleep(BUSY_POLL_SECONDS)
        if not (pending := [spec for spec in specs if outcomes[spec.name].passing]):
            break
    return [outcomes[spec.name] for spec in specs]


def growing_pauses(folders: Sequence[Path], patience_seconds: float) -> Iterator[float]:
    """Yield the pauses before the rounds of a download, until patience is over; the first round begins at once.

    Another file in one of the folders is headway, with which pauses and patience begin anew.
    """

    def count() -> int:
        return sum(1 for folder in folders for _ in folder.glob("*.parquet"))

    files, since, pause = count(), time.monotonic(), FIRST_WAIT_SECONDS
    yield 0.0
    while True:
        if (found := count()) > files:
            files, since, pause = found, time.monotonic(), FIRST_WAIT_SECONDS
        if time.monotonic() + pause - since > patience_seconds:
            return
        yield pause
        pause = min(LONGEST_WAIT_SECONDS, 2 * pause)


@task(task_run_name="check-catalogue", **LOCAL_WORK)
async def check_catalogue(catalogue: str) -> Check:
    """Read the catalogue and the connections."""

    async def work() -> str:
        specs = load_catalogue(Path(catalogue) if catalogue else None)
        connection = await connect()
        contact = connection.contact or "none; set DISTRUST_CONTACT so that archives can reach you"
        return f"{len(specs)} sources; contact: {contact}"

    return await try_component("catalogue", work)
