"""Rebalance: deduplicate, sample to the target shares, split, write train and valid."""

from __future__ import annotations

from prefect import flow

from flows.forms import RebalanceCorpusParameters
from flows.names import named
from flows.parameters import takes
from flows.records import recorded
from storage.errors import StoreError
from tasks import rebalancing
from tasks.chain import announce_sealed
from tasks.mixture.parameters import MixtureParameters
from tasks.runners import open_runner


@flow(name="rebalance-corpus", flow_run_name=named("rebalance-corpus-{mixture}"))
@takes(RebalanceCorpusParameters)
async def rebalance_corpus(parameters: RebalanceCorpusParameters) -> rebalancing.MixtureResult:
    """Draw the balanced mixture that the method needs, and report its distribution."""
    layout = await parameters.open_store()
    async with recorded(parameters, layout, reads=["raw", "scored"], writes=[f"balanced/{parameters.mixture}"]):
        sources = parameters.sources or layout.completed("scored")
        if not sources:
            raise StoreError(f"{layout.root} holds no scored source; run python -m flows score-corpus first")
        with open_runner(parameters) as runner:
            manifest, reused = await rebalancing.build_balanced(
                layout, parameters.mixture, sources, parameters.pick(MixtureParameters), runner.map_shards
            )
        distribution = await rebalancing.report_distribution(layout, parameters.mixture)
    announce_sealed("balanced", parameters.mixture, parameters.store, digest=manifest.digest)
    return rebalancing.MixtureResult(
        mixture=str(layout.balanced(parameters.mixture)),
        digest=manifest.digest,
        counts=manifest.counts,
        reused=reused,
        distribution=distribution,
    )
