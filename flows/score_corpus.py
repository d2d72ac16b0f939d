"""Score: authority, provenance entropy and trivium for every raw shard."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import chain
from typing import Any

from prefect import flow

from flows.forms import ScoreCorpusOptions
from flows.names import named
from flows.parameters import takes
from flows.records import recorded
from storage.errors import StoreError
from storage.layout import Layout
from storage.manifest import Manifest, ShardRecord
from tasks import scoring
from tasks.chain import announce_sealed
from tasks.runners import ShardRunner, all_done, open_runner


@flow(name="score-corpus", flow_run_name=named("score-corpus"))
@takes(ScoreCorpusOptions)
async def score_corpus(parameters: ScoreCorpusOptions) -> dict[str, Any]:
    """Score every downloaded document; sources whose scores are up to date are left alone."""
    layout = await parameters.open_store()
    reads, writes = (["raw", "scored"], []) if parameters.explain else (["raw"], ["scored"])
    async with recorded(parameters, layout, reads, writes):
        result = await score_store(layout, parameters)
    if not parameters.explain:
        scored = [source["source"] for source in result["sources"]]
        announce_sealed("scored", "corpus", parameters.store, sources=scored)
    return result


async def score_store(layout: Layout, parameters: ScoreCorpusOptions) -> dict[str, Any]:
    """Score what a store holds, or explain one of its scores."""
    if parameters.explain:
        return {"explanation": await asyncio.to_thread(scoring.explain, layout, parameters.explain)}
    sources = parameters.sources or layout.completed("raw")
    if not sources:
        raise StoreError(f"{layout.root} holds no downloaded source; run python -m flows download-corpus first")
    signal = scoring.open_signal(parameters.signal, parameters.signal_mode)
    plans = [
        scoring.plan_scoring(layout, source, parameters.run_year, signal, parameters.scoring) for source in sources
    ]
    with open_runner(parameters) as runner:
        manifests = await all_done(
            score_source(plan, shards, parameters.max_conflict_share, runner) for plan, shards in plans
        )
    await scoring.report_scores(manifests)
    return {"sources": [{"source": manifest.name, "rows": manifest.rows, **manifest.counts} for manifest in manifests]}


async def score_source(
    plan: scoring.Scoring, shards: Sequence[ShardRecord], max_conflict_share: float, runner: ShardRunner
) -> Manifest:
    """Score one source; a lock keeps others from scoring it meanwhile."""
    async with scoring.only_scorer(plan):
        if done := await scoring.look_up_scores(plan):
            return done
        shares = scoring.share_out(shards)
        records = await all_done(runner.run(scoring.score_shards, scoring=plan, shards=share) for share in shares)
        return await scoring.seal_scores(plan, list(chain(*records)), max_conflict_share)
