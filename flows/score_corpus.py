"""Score: authority, provenance entropy and trivium for every raw shard."""

from __future__ import annotations

import asyncio
from typing import Any

from prefect import flow
from pydantic import Field

from flows.parameters import FlowParameters, takes
from storage.errors import StoreError
from storage.layout import Layout
from storage.manifest import Manifest
from tasks import scoring
from tasks.policies import run_logger

SHARDS_AT_ONCE = 2


class ScoreCorpusParameters(FlowParameters):
    """Which documents to score."""

    sources: list[str] = Field([], title="Sources", description="Downloaded sources to score; empty: all of them.")
    run_year: int = Field(
        2026, ge=1900, le=2200, title="Run year", description="The present, for the age of a document; never the clock."
    )
    max_conflict_share: float = Field(
        0.2,
        ge=0,
        le=1,
        title="Max conflict share",
        description="Fail a source when more of its documents carry a year that contradicts it.",
    )


@flow(name="score-corpus", flow_run_name="score-corpus")
@takes(ScoreCorpusParameters)
async def score_corpus(parameters: ScoreCorpusParameters) -> dict[str, Any]:
    """Score every downloaded document; sources whose scores are up to date are left alone."""
    layout = await parameters.open_store()
    sources = parameters.sources or layout.sealed("raw")
    if not sources:
        raise StoreError(f"{layout.root} holds no downloaded source; run python -m flows download-corpus first")
    gate = asyncio.Semaphore(SHARDS_AT_ONCE)
    manifests = await asyncio.gather(*(score_source(source, layout, parameters, gate) for source in sources))
    return {"sources": [{"source": manifest.name, **manifest.counts} for manifest in manifests]}


async def score_source(
    source: str, layout: Layout, parameters: ScoreCorpusParameters, gate: asyncio.Semaphore
) -> Manifest:
    """Score one source, shard by shard."""
    trivium = scoring.trivium_of(layout, source)
    done = scoring.finished_scoring(layout, source, trivium, parameters.run_year)
    if done:
        run_logger().info("%s is scored already", source)
        return done
    raw, scored = layout.raw(source), layout.scored(source)

    async def score(file: str) -> Any:
        async with gate:
            return await scoring.score_one_shard(source, file, raw, scored, trivium, parameters.run_year)

    records = await asyncio.gather(*(score(shard.file) for shard in scoring.raw_manifest(layout, source).shards))
    return scoring.seal_scores(layout, source, trivium, parameters.run_year, records, parameters.max_conflict_share)
