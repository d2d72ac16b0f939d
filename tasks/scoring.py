"""Scoring as Prefect sees it: one task per some tens of megabytes of shards, then the seal."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

import numpy as np
from prefect import task
from prefect.artifacts import acreate_table_artifact
from prefect.runtime import task_run

from storage.atomic import remove
from storage.errors import MixtureError
from storage.layout import Layout
from storage.manifest import (
    Manifest,
    ShardRecord,
    SourceNotes,
    digest_of,
    find_damage,
    read_manifest,
    record_shard,
    require_manifest,
    write_manifest,
)
from storage.parquet import MADE_FROM, is_made_from
from storage.schemas import SCORED_LAYOUT, SCORING_VERSION, ScoringVersion
from storage.shingles import Indices
from tasks.policies import LOCAL_WORK, Check, run_logger, try_component
from tasks.signals.custom import CustomSignal, load_signal
from tasks.signals.explain import explain as explain  # for the flow, which does not see a room
from tasks.signals.overlay import Mode
from tasks.signals.reference import score_document
from tasks.signals.shards import score_shard
from tasks.signals.summary import summarise_scores

TASK_BYTES = 64 << 20
"""Raw bytes on disk that one task scores: seconds of work. A shard is sized for the archive's patience and takes only
milliseconds, while a task run costs tens of milliseconds and 25 kB of the server's database."""


@dataclass(frozen=True)
class Scoring:
    """How one source is scored, and where."""

    source: str
    raw: Path
    scored: Path
    raw_digest: str
    trivium: str
    """Category of the source, as the catalogue had it when the source was downloaded."""
    run_year: int
    signal: CustomSignal | None = None
    version: ScoringVersion = SCORING_VERSION
    outlets: Mapping[str, Indices] | None = None
    """By shard, the rows that stand in several outlets, and in how many; none: that was not counted."""

    @property
    def parameters(self) -> dict[str, object]:
        """What the scores depend on besides the documents."""
        given = {"signal": self.signal.identity} if self.signal else {}
        return {
            "source": self.source,
            "trivium": self.trivium,
            "run_year": self.run_year,
            "scoring_version": self.version,
            "layout": SCORED_LAYOUT,
            **given,
        }

    @property
    def inputs(self) -> dict[str, str]:
        """What the scores are made from."""
        outlets = self.outlets
        if outlets is None:
            return {"raw": self.raw_digest}
        return {"raw": self.raw_digest, "coordination": digest_of({f: rows.tolist() for f, rows in outlets.items()})}

    def outlets_of(self, shard: ShardRecord) -> Indices | None:
        """Return the copied rows of one shard."""
        return None if self.outlets is None else self.outlets.get(shard.file, np.zeros((0, 2), np.int64))

    def digest_of_shard(self, shard: ShardRecord) -> str:
        """What the scores of one shard depend on."""
        outlets = self.outlets_of(shard)
        copies = {} if outlets is None else {"coordination": outlets.tolist()}
        return digest_of({"shard": shard.sha256, **self.parameters, **copies})

    def of(self, shards: Sequence[ShardRecord]) -> Scoring:
        """Return what scoring some shards needs, to hand to a process."""
        if self.outlets is None:
            return self
        files = {shard.file for shard in shards}
        return replace(self, outlets={file: rows for file, rows in self.outlets.items() if file in files})

    def finished(self) -> Manifest | None:
        """Return the manifest of whole scores that were made from the present documents, if there is one."""
        manifest = self._sealed()
        return manifest if manifest is not None and not find_damage(self.scored, manifest) else None

    def remove_damaged(self) -> list[str]:
        """Remove the shards that changed since they were sealed, so that they are scored again; name them."""
        manifest = self._sealed()
        damaged = find_damage(self.scored, manifest, hashes=True) if manifest is not None else []
        for file in damaged:
            remove(self.scored / file)
        return damaged

    def _sealed(self) -> Manifest | None:
        # Of scores of other documents or parameters, a shard that differs may have been scored again already.
        manifest = read_manifest(self.scored)
        return manifest if manifest is not None and manifest.made_from(self.inputs, self.parameters) else None


def plan_scoring(
    layout: Layout,
    source: str,
    run_year: int,
    signal: CustomSignal | None,
    version: ScoringVersion,
    outlets: Mapping[str, Indices] | None = None,
) -> tuple[Scoring, list[ShardRecord]]:
    """Find what the scores of a downloaded source depend on, and the shards of its documents."""
    documents = require_manifest(
        layout.raw(source), f"download it first: python -m flows download-corpus --sources {source}"
    )
    trivium = documents.notes_as(SourceNotes).trivium
    raw, scored = layout.raw(source), layout.scored(source)
    return Scoring(source, raw, scored, documents.digest, trivium, run_year, signal, version, outlets), documents.shards


def open_signal(name: str, mode: Mode) -> CustomSignal | None:
    """Import the user's own signal; none if none is named."""
    return load_signal(name, mode) if name else None


def share_out(shards: Sequence[ShardRecord]) -> list[list[ShardRecord]]:
    """Cut the shards of a source into runs of about `TASK_BYTES`, in order: small shards share a task."""
    shares: list[list[ShardRecord]] = []
    held = 0
    for shard in shards:
        if not shares or held + shard.bytes > TASK_BYTES:
            shares.append([])
            held = 0
        shares[-1].append(shard)
        held += shard.bytes
    return shares


def describe_share() -> str:
    """Name a task run after its source and the shards that it scores."""
    parameters = task_run.parameters
    first, last = parameters["shards"][0].file, parameters["shards"][-1].file
    name = f"score-{parameters['scoring'].source}-{PurePath(first).stem}"
    return name if first == last else f"{name}-to-{PurePath(last).stem.rpartition('-')[2]}"


@task(task_run_name=describe_share, **LOCAL_WORK)
async def score_shards(scoring: Scoring, shards: Sequence[ShardRecord]) -> list[ShardRecord]:
    """Score the documents of some shards; those that were scored before an interruption are left alone."""
    return [await asyncio.to_thread(score_one, scoring, shard) for shard in shards]


def score_one(scoring: Scoring, shard: ShardRecord) -> ShardRecord:
    """Score the documents of one shard, unless that was done before."""
    scored, made_from = scoring.scored / shard.file, scoring.digest_of_shard(shard)
    if not is_made_from(scored, made_from):
        score_shard(
            scoring.raw / shard.file,
            scored,
            trivium=scoring.trivium,
            run_year=scoring.run_year,
            tags={MADE_FROM: made_from},
            signal=scoring.signal,
            scoring=scoring.version,
            outlets=scoring.outlets_of(shard),
        )
    return record_shard(scoring.scored, scored)


async def look_up_scores(scoring: Scoring) -> Manifest | None:
    """Return the manifest of a source that needs no scoring; lost or changed shards are made again."""
    if done := await asyncio.to_thread(scoring.finished):
        run_logger().info("%s is scored already", scoring.source)
    elif damaged := await asyncio.to_thread(scoring.remove_damaged):
        run_logger().warning(
            "%s has lost or changed %d shards since it was scored (%s); they are scored again",
            scoring.source,
            len(damaged),
            damaged[0],
        )
    return done


@task(task_run_name="seal-scores-{scoring.source}", **LOCAL_WORK)
async def seal_scores(scoring: Scoring, records: Sequence[ShardRecord], max_conflict_share: float) -> Manifest:
    """Write the manifest of a source's scores.

    Raises:
        MixtureError: By scoring v1, more documents than `max_conflict_share` carry a year that contradicts their
            source. By v2 they are scored by their text, which a warning says.
    """
    found = await asyncio.to_thread(summarise_scores, [scoring.scored / record.file for record in records])
    if found.conflict_share > max_conflict_share:
        fault = (
            f"{scoring.source}: {found.conflicts} of {found.documents} documents carry a year outside their source's "
            f"range, more than the share {max_conflict_share} allowed"
        )
        if scoring.version == "v1":
            raise MixtureError(f"{fault}; correct the source in the catalogue or raise max_conflict_share")
        run_logger().warning("%s; they are scored by their text. Correct the source in the catalogue", fault)
    manifest = Manifest(
        kind="scored",
        name=scoring.source,
        inputs=scoring.inputs,
        parameters=scoring.parameters,
        shards=list(records),
        counts=found.counts,
        notes={"median_authority": found.median_authority, "median_bits": found.median_bits},
    )
    await asyncio.to_thread(write_manifest, scoring.scored, manifest)
    return manifest


@task(task_run_name="report-scores", **LOCAL_WORK)
async def report_scores(manifests: Sequence[Manifest]) -> None:
    """Show the scores of every source as a table artifact."""
    await acreate_table_artifact(
        key="scores",
        table=[score_row(manifest) for manifest in manifests],
        description="Authority (0 to 0.99), provenance entropy (bits) and doubtful years of every source.",
    )


def score_row(manifest: Manifest) -> dict[str, object]:
    """Describe the scores of a source as a row of a table artifact."""
    counts, rows = manifest.counts, max(1, manifest.rows)
    return {
        "source": manifest.name,
        "documents": manifest.rows,
        **{f"{band} authority": counts[band] for band in ("low", "medium", "high")},
        "median authority": round(manifest.notes["median_authority"], 3),
        "median bits": round(manifest.notes["median_bits"], 2),
        "years unverified": f"{counts['years_unverified'] / rows:.0%}",
        "years in conflict": counts["year_conflicts"],
        "scores refused": counts.get("refused", 0),
        "labels overruled": counts.get("overruled", 0),
        "language unscored": counts.get("unscored_language", 0),
        "in several outlets": counts.get("copied", 0),
    }


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
