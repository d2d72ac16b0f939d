"""The whole pipeline: the six flows as subflows, each taking up what the one before has sealed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from prefect import flow
from pydantic import BaseModel

from flows.download_corpus import download_corpus
from flows.evaluate_adapter import evaluate_adapter
from flows.export_model import export_model
from flows.forms import (
    CorpusToModelParameters,
    DownloadCorpusParameters,
    EvaluateAdapterParameters,
    ExportModelParameters,
    RebalanceCorpusParameters,
    ScoreCorpusParameters,
    TrainAdapterParameters,
)
from flows.names import named
from flows.parameters import takes
from flows.rebalance_corpus import rebalance_corpus
from flows.score_corpus import score_corpus
from flows.summaries import announce
from flows.train_adapter import train_adapter
from tasks import evaluation, exporting, rebalancing


@flow(name="corpus-to-model", flow_run_name=named("corpus-to-model-{run}"))
@takes(CorpusToModelParameters)
async def corpus_to_model(parameters: CorpusToModelParameters) -> dict[str, Any]:
    """Go from the archives to an exported model; a run that was interrupted repeats no finished work."""
    results: dict[str, Any] = {}
    layout = await parameters.open_store()  # a name that is wrong at the last stage is told before the first

    async def stage(name: str, run: Callable[..., Awaitable[Any]], model: type[BaseModel], **changes: Any) -> None:
        results[name] = await run(**parameters.pick(model).model_dump() | changes)
        announce(name, results[name])

    await stage("download", download_corpus, DownloadCorpusParameters)
    usable = results["download"].usable_sources
    await stage("score", score_corpus, ScoreCorpusParameters, sources=usable)
    await stage("rebalance", rebalance_corpus, RebalanceCorpusParameters, sources=usable)
    # What somebody looks for is on the page of this run, too, and not on those of its stages alone.
    await rebalancing.show_distribution(parameters.mixture, results["rebalance"]["distribution"])
    await stage("train", train_adapter, TrainAdapterParameters)
    await stage("evaluate", evaluate_adapter, EvaluateAdapterParameters)
    await evaluation.report_evaluation(layout, parameters.run)
    await stage("export", export_model, ExportModelParameters)
    await exporting.report_export(parameters.export or parameters.run, results["export"])
    return results
