"""Score: authority, provenance entropy and trivium for every raw shard."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import chain
from typing import Any, Literal

from prefect import flow
from pydantic import Field

from flows.parameters import FlowParameters, takes
from storage.errors import StoreError
from storage.layout import Layout
from storage.manifest import Manifest, ShardRecord
from tasks import scoring
from tasks.chain import announce_sealed
from tasks.mirroring import shared
from tasks.runners import RunnerParameters, ShardRunner, all_done, open_runner


class ScoreCorpusParameters(RunnerParameters, FlowParameters):
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
    signal: str = Field(
        "",
        title="Signal",
        description="A scoring function of your own, module:function, found in the current folder or on the Python "
        "path; empty: the built-in scores.",
    )
    signal_mode: Literal["replace", "join"] = Field(
        "replace",
        title="Signal mode",
        description="Whether your signal's scores replace the built-in ones or are averaged with them.",
    )


class ScoreCorpusOptions(ScoreCorpusParameters):
    """Scoring, or a look at one score."""

    explain: str = Field(
        "",
        title="Explain",
        description="Id of a document whose score to explain, source:id; nothing is scored then.",
    )


@flow(name="score-corpus", flow_run_name="score-corpus")
@takes(ScoreCorpusOptions)
async def score_corpus(parameters: ScoreCorpusOptions) -> dict[str, Any]:
    """Score every downloaded document; sources whose scores are up to date are left alone."""
    layout = await parameters.open_store()
    async with shared(layout, reads=["raw"], writes=["scored"]):
        result = await score_store(layout, parameters)
    if not parameters.explain:
        scored = [source["source"] for source in result["sources"]]
        announce_sealed("scored", "corpus", parameters.store, sources=scored)
    return result


async def score_store(layout: Layout, parameters: ScoreCorpusOptions) -> dict[str, Any]:
    """Score what a store holds, or explain one of its scores."""
    if parameters.explain:
        return {"explanation": await asyncio.to_thread(scoring.explain, layout, parameters.explain)}
    sources = parameters.sources or layout.sealed("raw")
    if not sources:
        raise StoreError(f"{layout.root} holds no downloaded source; run python -m flows download-corpus first")
    signal = scoring.open_signal(parameters.signal, parameters.signal_mode)
    plans = [scoring.plan_scoring(layout, source, parameters.run_year, signal) for source in sources]
    with open_runner(parameters) as runner:
        manifests = await all_done(
            score_source(plan, shards, parameters.max_conflict_share, runner) for plan, shards in plans
        )
    await scoring.report_scores(manifests)
    return {"sources": [{"source": manifest.name, "rows": manifest.rows, **manifest.counts} for manifest in manifests]}


async def score_source(
    plan: scoring.Scoring, shards: Sequence[ShardRecord], max_conflict_share: float, runner: ShardRunner
) -> Manifest:
    """Score one source; nobody else scores it meanwhile."""
    async with scoring.only_scorer(plan):
        if done := await scoring.look_up_scores(plan):
            return done
        shares = scoring.share_out(shards)
        records = await all_done(runner.run(scoring.score_shards, scoring=plan, shards=share) for share in shares)
        return await scoring.seal_scores(plan, list(chain(*records)), max_conflict_share)
