"""Evaluate: behaviour validation and metrics for the base model and the adapter, one report."""

from __future__ import annotations

from prefect import flow

from flows.forms import EvaluateAdapterParameters
from flows.names import named
from flows.parameters import takes
from flows.records import recorded
from storage.layout import CHECKPOINT_PREFIX
from tasks.chain import announce_sealed
from tasks.evals.parameters import EvaluationParameters
from tasks.evaluation import EvaluationResult, evaluate_run, report_evaluation


@flow(name="evaluate-adapter", flow_run_name=named("evaluate-adapter-{run}"))
@takes(EvaluateAdapterParameters)
async def evaluate_adapter(parameters: EvaluateAdapterParameters) -> EvaluationResult:
    """Ask the base model and the adapter the same questions, and report what the training changed."""
    layout = await parameters.open_store()
    others = [f"runs/{name}" for name in parameters.others if not name.startswith(CHECKPOINT_PREFIX)]
    async with recorded(parameters, layout, reads=["balanced", *others], writes=[f"runs/{parameters.run}"]):
        result = await evaluate_run(layout, parameters.run, parameters.pick(EvaluationParameters))
    await report_evaluation(layout, parameters.run)
    result.require_verdict()
    announce_sealed("evaluated", parameters.run, parameters.store, passed=result.passed)
    return result
