"""Scoring as Prefect sees it: one task per shard, then the seal."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from prefect import task

from storage.errors import MixtureError
from storage.layout import Layout
from storage.manifest import Manifest, ShardRecord, read_manifest, record_shard, require_manifest, write_manifest
from storage.parquet import read_shard
from storage.schemas import SCORED_SCHEMA, SCORING_VERSION
from tasks.policies import LOCAL_WORK, Check, try_component
from tasks.signals.engine import score_shard
from tasks.signals.reference import score_document


def raw_manifest(layout: Layout, source: str) -> Manifest:
    """Read the manifest of a downloaded source."""
    return require_manifest(
        layout.raw(source), f"download it first: python -m flows download-corpus --sources {source}"
    )


def trivium_of(layout: Layout, source: str) -> str:
    """Trivium category of a source, as the catalogue had it when the source was downloaded."""
    return str(raw_manifest(layout, source).notes.get("trivium", ""))


def scoring_parameters(source: str, trivium: str, run_year: int) -> dict[str, object]:
    """What the scores of a source depend on besides its documents."""
    return {"source": source, "trivium": trivium, "run_year": run_year, "scoring_version": SCORING_VERSION}


def finished_scoring(layout: Layout, source: str, trivium: str, run_year: int) -> Manifest | None:
    """Return the manifest of scores that were made from the present documents, if there is one."""
    manifest = read_manifest(layout.scored(source))
    inputs = {"raw": raw_manifest(layout, source).digest}
    wanted = manifest is not None and manifest.made_from(inputs, scoring_parameters(source, trivium, run_year))
    return manifest if wanted else None


@task(task_run_name="score-{source}-{file}", **LOCAL_WORK)
async def score_one_shard(source: str, file: str, raw: Path, scored: Path, trivium: str, run_year: int) -> ShardRecord:
    """Score the documents of one shard."""
    await asyncio.to_thread(score_shard, raw / file, scored / file, trivium=trivium, run_year=run_year)
    return record_shard(scored, scored / file)


@task(task_run_name="seal-scores-{source}", **LOCAL_WORK)
def seal_scores(
    layout: Layout,
    source: str,
    trivium: str,
    run_year: int,
    records: Sequence[ShardRecord],
    max_conflict_share: float,
) -> Manifest:
    """Write the manifest of a source's scores.

    Raises:
        MixtureError: More documents than `max_conflict_share` carry a year that contradicts their source.
    """
    folder = layout.scored(source)
    bands: Counter[str] = Counter()
    conflicts = rows = 0
    for record in records:
        table = read_shard(folder / record.file, SCORED_SCHEMA, ["band", "components"])
        bands.update(table.column("band").to_pylist())
        conflicts += sum(bool(row["conflict"]) for row in table.column("components").to_pylist())
        rows += table.num_rows
    if rows and conflicts / rows > max_conflict_share:
        raise MixtureError(
            f"{source}: {conflicts} of {rows} documents carry a year outside their source's range, more than the "
            f"share {max_conflict_share} allowed; correct the source in the catalogue or raise max_conflict_share"
        )
    manifest = Manifest(
        kind="scored",
        name=source,
        inputs={"raw": raw_manifest(layout, source).digest},
        parameters=scoring_parameters(source, trivium, run_year),
        shards=list(records),
        counts={**{band: bands[band] for band in ("low", "medium", "high")}, "year_conflicts": conflicts},
    )
    write_manifest(folder, manifest)
    return manifest


@task(task_run_name="check-scoring", **LOCAL_WORK)
async def check_scoring() -> Check:
    """Score a primary and a coordinated sentence, and see that they differ the right way."""

    async def work() -> str:
        primary = score_document("Patented July 31, 1923. Be it known that I measured it.", "patent_pre1970")
        modern = score_document(
            "Experts agree, according to the World Health Organization (2024).", "medical_guidelines"
        )
        if not (primary.auth_weight < modern.auth_weight and primary.prov_entropy > modern.prov_entropy):
            raise ValueError(f"the scores are out of order: {primary} against {modern}")
        return (
            f"patent {primary.auth_weight:.2f} / {primary.prov_entropy:.1f} bits, "
            f"press release {modern.auth_weight:.2f} / {modern.prov_entropy:.1f} bits"
        )

    return await try_component("scoring", work)
