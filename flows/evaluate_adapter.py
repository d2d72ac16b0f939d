"""Evaluate: behaviour validation and metrics for the base model and the adapter, one report."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.forms import EvaluateAdapterParameters
from flows.names import named
from flows.parameters import takes
from storage.layout import CHECKPOINT_PREFIX
from tasks import evaluation
from tasks.chain import announce_sealed
from tasks.evals.parameters import EvaluationParameters
from tasks.mirroring import shared


@flow(name="evaluate-adapter", flow_run_name=named("evaluate-adapter-{run}"))
@takes(EvaluateAdapterParameters)
async def evaluate_adapter(parameters: EvaluateAdapterParameters) -> dict[str, Any]:
    """Ask the base model and the adapter the same questions, and report what the training changed."""
    layout = await parameters.open_store()
    others = [f"runs/{name}" for name in parameters.others if not name.startswith(CHECKPOINT_PREFIX)]
    async with shared(layout, reads=["balanced", *others], writes=[f"runs/{parameters.run}"]):
        result = await evaluation.evaluate_run(layout, parameters.run, parameters.pick(EvaluationParameters))
    await evaluation.report_evaluation(parameters.run, result["markdown"])
    evaluation.mind_the_gate(result)
    announce_sealed("evaluated", parameters.run, parameters.store, passed=result["passed"])
    return {key: value for key, value in result.items() if key != "markdown"}
