"""What a download would take, before it is begun: documents, bytes, hours."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from storage.errors import ArchiveBusy, DistrustError, PrerequisiteError
from tasks.sources.catalogue import SourceSpec
from tasks.sources.chronicling_america import PAGE_SIZE
from tasks.sources.connection import Archives
from tasks.sources.opening import open_source
from tasks.sources.results import SurveyRow
from tasks.sources.subjects import WAYS, way_of

BYTES_PER_SECOND = 4e6
"""What a home connection and a busy archive allow together."""
TYPICAL_BYTES = {
    "internet_archive": 500_000,  # the text of a book
    "chronicling_america": 30_000,  # a newspaper page, or in a bulk file the page's layout beside its text
    "hugging_face": 5_000,
    "local_files": 5_000,
}
ARCHIVES = {
    "internet_archive": "the Internet Archive",
    "chronicling_america": "the Library of Congress",
    "hugging_face": "the Hugging Face Hub",
    "local_files": "a local folder",
}


async def survey_source(spec: SourceSpec, limit: int, archives: Archives, seconds: float) -> SurveyRow:
    """Ask a source how much it has, within a time limit, and estimate what its download would take."""
    try:
        async with asyncio.timeout(seconds), open_source(spec, archives) as source:
            return estimate(spec, await source.count(), limit, archives)
    except TimeoutError:
        away, problem = True, f"no answer within {seconds:.0f} s"
    except DistrustError as error:
        away = isinstance(error, ArchiveBusy | PrerequisiteError)
        problem = str(_root_cause(error) if away else error)
    return SurveyRow(
        source=spec.name, band=spec.band, archive=spec.archive, wanted=limit, unreachable=away, problem=problem
    )


def _root_cause(error: BaseException) -> BaseException:
    """Return what the network said, without what this project made of it."""
    while isinstance(error, DistrustError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def estimate(spec: SourceSpec, offered: int | None, limit: int, archives: Archives) -> SurveyRow:
    """Estimate the download of at most `limit` documents, out of those that the archive says it has."""
    documents = limit if offered is None else min(limit, offered)
    size = documents * TYPICAL_BYTES[spec.archive]
    seconds = max(_asking_seconds(spec, documents, archives), size / BYTES_PER_SECOND)
    return SurveyRow(
        source=spec.name,
        band=spec.band,
        archive=spec.archive,
        wanted=limit,
        offered=offered,
        documents=None if offered is None else documents,
        bytes=size,
        hours=round(seconds / 3600, 2),
        subjects=f"{len(spec.subjects)} subjects: {WAYS[way_of(spec)]}" if spec.subjects else "",
    )


def _asking_seconds(spec: SourceSpec, documents: int, archives: Archives) -> float:
    match spec.archive:
        case "internet_archive":  # a search for every subject, the metadata and the text of every item
            return (len(spec.subjects) + 2 * documents) / archives.rate(spec, "archive.org")
        case "chronicling_america" if spec.bulk:
            return -(-documents // spec.pages_per_batch) / archives.rate(spec, "bulk")
        case "chronicling_america":
            searches = len(spec.subjects) / archives.rate(spec, "search")
            return searches + documents * (1 + 1 / PAGE_SIZE) / archives.rate(spec, "texts")
        case _:
            return 0.0  # rows come in files; their size is what counts


def nothing_known(rows: Sequence[SurveyRow]) -> str:
    """Say which archives could not be reached, where no source could be asked."""
    away = {row.archive: row.problem for row in rows if row.unreachable}
    reasons = [f"{ARCHIVES[archive]} could not be reached ({problem})" for archive, problem in away.items()]
    reasons += [row.problem for row in rows if not row.unreachable]
    advice = "; check the network and run again" if away else ""
    return f"no source could say how much it has: {'; '.join(reasons)}{advice}"
