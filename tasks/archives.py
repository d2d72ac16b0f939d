"""The archives as Prefect sees them: which sources there are, how they are reached, what they would take."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from prefect import task

from blocks.defaults import heed_saved
from blocks.hugging_face import HuggingFaceHub
from blocks.internet_archive import InternetArchive
from blocks.library_of_congress import LibraryOfCongress
from storage.errors import DistrustError, ParameterError
from storage.layout import Layout
from storage.manifest import read_manifest
from storage.schemas import BANDS
from storage.shard_plan import read_plan
from tasks.policies import LOCAL_WORK, Check, global_slot, run_logger, try_component
from tasks.sources.catalogue import SourceSpec, load_catalogue
from tasks.sources.estimate import estimate
from tasks.sources.source import Archives, Connection, Pace
from tasks.sources.web import Web


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
    known = load_catalogue(Path(catalogue) if catalogue else None)
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ParameterError(f"sources {unknown} are not in the catalogue; known are {sorted(known)}")
    chosen = [known[name] for name in names] if names else [spec for spec in known.values() if not spec.optional]
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
    log = run_logger()
    async with Web(connection.contact, patience_seconds=3600 * patience_hours, notify=log.warning) as web:
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
    """Ask a source how much it has, and estimate what its download would take; nothing is written."""
    try:
        async with global_slot(spec.limit_name), archives.open(spec) as source:
            found = estimate(spec, await source.count(), limit, archives.connection, archives.pace)
    except DistrustError as error:
        return {"source": spec.name, "band": spec.band, "problem": str(error)}
    return {**vars(found), "band": spec.band, "problem": ""}


@task(task_run_name="check-catalogue", **LOCAL_WORK)
async def check_catalogue(catalogue: str) -> Check:
    """Read the catalogue and the connections."""

    async def work() -> str:
        specs = load_catalogue(Path(catalogue) if catalogue else None)
        connection = await connect()
        contact = connection.contact or "none; set DISTRUST_CONTACT so that archives can reach you"
        return f"{len(specs)} sources; contact: {contact}"

    return await try_component("catalogue", work)
