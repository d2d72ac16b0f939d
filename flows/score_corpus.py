"""Score: authority, provenance entropy and trivium for every raw shard."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import chain

from prefect import flow

from flows.forms import ScoreCorpusOptions
from flows.names import named
from flows.parameters import takes
from flows.records import recorded
from storage.errors import StoreError
from storage.layout import Layout
from storage.manifest import Manifest, ShardRecord
from tasks import coordination, scoring
from tasks.chain import announce_sealed
from tasks.policies import sole_writer
from tasks.runners import ShardRunner, all_done, open_runner
from tasks.signals.results import ScoreResult


@flow(name="score-corpus", flow_run_name=named("score-corpus"))
@takes(ScoreCorpusOptions)
async def score_corpus(parameters: ScoreCorpusOptions) -> ScoreResult:
    """Score every downloaded document; sources whose scores are up to date are left alone."""
    layout = await parameters.open_store()
    reads, writes = (["raw", "scored"], []) if parameters.explain else (["raw"], ["scored", "coordination"])
    async with recorded(parameters, layout, reads, writes):
        result = await score_store(layout, parameters)
    if not parameters.explain:
        announce_sealed("scored", "corpus", parameters.store, sources=[found.source for found in result.sources])
    return result


async def score_store(layout: Layout, parameters: ScoreCorpusOptions) -> ScoreResult:
    """Score what a store holds, or explain one of its scores."""
    if parameters.explain:
        lines = await asyncio.to_thread(scoring.explain, layout, parameters.explain)
        return ScoreResult(explanation=tuple(lines))
    sources = parameters.sources or layout.completed("raw")
    if not sources:
        raise StoreError(f"{layout.root} holds no downloaded source; run python -m flows download-corpus first")
    signal = scoring.open_signal(parameters.signal, parameters.signal_mode)
    with open_runner(parameters) as runner:
        counts = parameters.coordination and parameters.scoring == "v2"
        count = await count_copies(layout, runner) if counts else None
        plans = [
            scoring.plan_scoring(
                *(layout, source, parameters.run_year, signal, parameters.scoring),
                outlets=count.outlets_of(source) if count else None,
            )
            for source in sources
        ]
        manifests = await all_done(
            score_source(plan, shards, parameters.max_conflict_share, runner) for plan, shards in plans
        )
    await scoring.report_scores(manifests)
    return ScoreResult.of(manifests)


async def count_copies(layout: Layout, runner: ShardRunner) -> coordination.Count:
    """Count in how many outlets the words of each document stand, over the whole store, unless that was done."""
    count = coordination.plan_count(layout)
    async with sole_writer(count.folder, *(source.folder for source in count.sources)):
        if not await asyncio.to_thread(count.finished):
            await all_done(
                runner.run(coordination.fingerprint_shards, raw=source.raw, folder=source.folder, shards=share)
                for source in count.sources
                for share in scoring.share_out(source.shards)
            )
            await coordination.count_copies(count)
    return count


async def score_source(
    plan: scoring.Scoring, shards: Sequence[ShardRecord], max_conflict_share: float, runner: ShardRunner
) -> Manifest:
    """Score one source; a lock keeps others from scoring it meanwhile."""
    async with sole_writer(plan.scored):
        if done := await scoring.look_up_scores(plan):
            return done
        shares = scoring.share_out(shards)
        records = await all_done(
            runner.run(scoring.score_shards, scoring=plan.of(share), shards=share) for share in shares
        )
        return await scoring.seal_scores(plan, list(chain(*records)), max_conflict_share)
