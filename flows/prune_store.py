"""Prune: remove old checkpoints, exports, set-aside datasets and leftovers from the store."""

from __future__ import annotations

from prefect import flow

from flows.forms import PruneStoreParameters
from flows.names import named
from flows.parameters import takes
from storage.retention import Pruning, RetentionParameters
from tasks import pruning


@flow(name="prune-store", flow_run_name=named("prune-store"))
@takes(PruneStoreParameters)
async def prune_store(parameters: PruneStoreParameters) -> Pruning:
    """Free room in the store; what a finished manifest, a run's result or the newest exports refer to stays."""
    layout = await parameters.open_store()
    result = await pruning.prune(layout, parameters.pick(RetentionParameters), dry_run=parameters.dry_run)
    await pruning.report_pruning(result)
    return result
