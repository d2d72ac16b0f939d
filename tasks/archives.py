"""The archives as Prefect sees them: which sources there are, how they are reached, what they would take."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect import task

from blocks.defaults import heed_saved
from blocks.hugging_face import HuggingFaceHub
from blocks.internet_archive import InternetArchive
from blocks.library_of_congress import LibraryOfCongress
from storage.errors import ArchiveBusy, DistrustError, PrerequisiteError, SourceUnavailable
from storage.layout import Layout
from storage.manifest import read_manifest
from storage.shard_plan import read_plan
from storage.vocabulary import BANDS
from tasks.policies import LOCAL_WORK, Check, run_logger, try_component
from tasks.shared_pace import SharedPace
from tasks.sources.catalogue import SourceSpec, load_catalogue, named_sources
from tasks.sources.estimate import estimate
from tasks.sources.source import Archives, Connection, Pace
from tasks.sources.web import Web

SURVEY_SECONDS = 10.0
"""How long a source is asked how much it has."""
ARCHIVES = {
    "internet_archive": "the Internet Archive",
    "chronicling_america": "the Library of Congress",
    "hugging_face": "the Hugging Face Hub",
    "local_files": "a local folder",
}


def every_source(catalogue: str) -> list[SourceSpec]:
    """Return all sources of the catalogue, those that are fetched only when named among them."""
    return list(load_catalogue(Path(catalogue) if catalogue else None).values())


def choose_sources(catalogue: str, names: Sequence[str], *, bulk: bool = False) -> list[SourceSpec]:
    """Return the sources that were named, or all that are not optional.

    Args:
        catalogue: A file of the user's own, if any.
        names: The names; empty for all.
        bulk: Read the newspapers from the library's bulk files.

    Raises:
        ParameterError: A name is not in the catalogue.
    """
    chosen = named_sources(load_catalogue(Path(catalogue) if catalogue else None), names)
    newspapers = {"bulk": True} if bulk else {}
    return [spec.model_copy(update=newspapers) if spec.archive == "chronicling_america" else spec for spec in chosen]


async def connect() -> Connection:
    """Read how to reach the archives: the environment, overridden by saved blocks named ``default``.

    Secrets are read here, inside the process that uses them, and never become parameters.
    """
    # The Hugging Face libraries read their variables when they are imported.
    await heed_saved(InternetArchive, LibraryOfCongress, HuggingFaceHub)
    return Connection.from_environment()


@asynccontextmanager
async def open_archives(pace: Pace, patience_hours: float) -> AsyncIterator[Archives]:
    """Open what all sources of a download share.

    Args:
        pace: How fast archives are asked.
        patience_hours: How long an archive that answered before is waited for.
    """
    connection = await connect()
    # What is loaded by now stays: a full collection that walks through it holds up every request for .4 s.
    gc.freeze()
    log, patience_seconds = run_logger(), 3600 * patience_hours
    async with Web(
        connection.contact, patience_seconds=patience_seconds, notify=log.warning, share=SharedPace().turn
    ) as web:
        yield Archives(connection, pace, web)


def list_catalogue(specs: Sequence[SourceSpec], layout: Layout) -> list[dict[str, Any]]:
    """Describe every source and what of it is on disk, by authority band."""
    rows = []
    for spec in sorted(specs, key=lambda spec: BANDS.index(spec.band)):
        folder = layout.raw(spec.name)
        manifest, plan = read_manifest(folder), read_plan(folder)
        finished = sum(shard.is_finished(folder) for shard in plan.shards) if plan else 0
        rows.append(
            {
                "source": spec.name,
                "band": spec.band,
                "archive": spec.archive,
                "target": spec.target,
                "optional": spec.optional,
                "documents": manifest.rows if manifest else 0,
                "shards": f"{finished} of {len(plan.shards)}" if plan else "",
                "sealed": manifest is not None,
                "licence": spec.licence,
                "note": spec.note,
            }
        )
    return rows


@task(task_run_name="survey-{spec.name}", **LOCAL_WORK)
async def survey_source(spec: SourceSpec, limit: int, archives: Archives) -> dict[str, Any]:
    """Ask a source how much it has, and estimate what its download would take; nothing is written.

    Where the archive does not say how much it has, ``documents`` is none: what is wanted was not found yet.
    """
    row = {"source": spec.name, "band": spec.band, "archive": spec.archive, "wanted": limit, "unreachable": False}
    try:
        # A question per source is asked beside a download that is under way, and waits for none.
        async with asyncio.timeout(SURVEY_SECONDS), archives.open(spec) as source:
            found = estimate(spec, await source.count(), limit, archives.connection, archives.pace)
    except TimeoutError:
        return row | {"unreachable": True, "problem": f"no answer within {SURVEY_SECONDS:.0f} s"}
    except DistrustError as error:
        away = isinstance(error, ArchiveBusy | PrerequisiteError)
        return row | {"unreachable": away, "problem": str(_below(error)) if away else str(error)}
    return row | vars(found) | {"documents": None if found.offered is None else found.documents, "problem": ""}


def _below(error: BaseException) -> BaseException:
    """Return what the network said, below what this project made of it."""
    while isinstance(error, DistrustError) and error.__cause__ is not None:
        error = error.__cause__
    return error


async def survey(specs: Sequence[SourceSpec], limits: Mapping[str, int], pace: Pace) -> list[dict[str, Any]]:
    """Ask every source how much it has: all archives at once, each source with one short try.

    Args:
        specs: The sources.
        limits: How many documents of each are wanted.
        pace: How fast archives are asked.

    Raises:
        SourceUnavailable: Not one source could be asked; the message says which archives are out of reach.
    """
    connection = await connect()
    async with Web(connection.contact, patience_seconds=0.0, silence_seconds=SURVEY_SECONDS) as web:
        archives = Archives(connection, replace(pace, attempts=1), web)

        async def ask(archive: str) -> list[dict[str, Any]]:
            rows: list[dict[str, Any]] = []
            for spec in (spec for spec in specs if spec.archive == archive):
                if rows and rows[-1]["unreachable"]:  # one archive is not knocked at again for each of its sources
                    rows.append(rows[-1] | {"source": spec.name, "band": spec.band, "wanted": limits[spec.name]})
                else:
                    rows.append(await survey_source(spec, limits[spec.name], archives))
            return rows

        groups = await asyncio.gather(*(ask(archive) for archive in dict.fromkeys(spec.archive for spec in specs)))
    found = {row["source"]: row for rows in groups for row in rows}
    rows = [found[spec.name] for spec in specs]
    if rows and all(row["problem"] for row in rows):
        raise SourceUnavailable(_nothing_known(rows))
    return rows


def _nothing_known(rows: Sequence[dict[str, Any]]) -> str:
    away = {row["archive"]: row["problem"] for row in rows if row["unreachable"]}
    reasons = [f"{ARCHIVES[archive]} could not be reached ({problem})" for archive, problem in away.items()]
    reasons += [row["problem"] for row in rows if not row["unreachable"]]
    advice = "; check the network and run again" if away else ""
    return f"nothing is known of what there is: {'; '.join(reasons)}{advice}"


@task(task_run_name="check-catalogue", **LOCAL_WORK)
async def check_catalogue(catalogue: str) -> Check:
    """Read the catalogue and the connections."""

    async def work() -> str:
        specs = load_catalogue(Path(catalogue) if catalogue else None)
        connection = await connect()
        contact = connection.contact or "none; set DISTRUST_CONTACT so that archives can reach you"
        return f"{len(specs)} sources; contact: {contact}"

    return await try_component("catalogue", work)
