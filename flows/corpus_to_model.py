"""The whole pipeline: the six flows as subflows, each of which reads what the one before has sealed."""

from __future__ import annotations

from typing import Any

from prefect import Flow, flow
from pydantic import BaseModel, ConfigDict

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
from flows.records import recorded
from flows.score_corpus import score_corpus
from flows.summaries import announce
from flows.train_adapter import train_adapter
from tasks import evaluation, exporting, rebalancing


class PipelineResult(BaseModel):
    """What each stage of the pipeline returned."""

    model_config = ConfigDict(frozen=True)

    download: Any
    score: Any
    rebalance: Any
    train: Any
    evaluate: Any
    export: Any

    def summary(self) -> list[str]:
        """Say where the results are; what each stage did was announced when it was done."""
        return [f"Report: {self.evaluate.report}", f"Model:  {self.export.folder}"]


@flow(name="corpus-to-model", flow_run_name=named("corpus-to-model-{run}"))
@takes(CorpusToModelParameters)
async def corpus_to_model(parameters: CorpusToModelParameters) -> PipelineResult:
    """Go from the archives to an exported model; a run that was interrupted repeats no finished work."""
    results: dict[str, Any] = {}
    layout = await parameters.open_store()  # a wrong name at the last stage is reported before the first

    async def stage(name: str, run: Flow[..., Any], model: type[BaseModel], **changes: Any) -> None:
        results[name] = await run(**parameters.pick(model).model_dump() | changes)
        announce(name, run.name, results[name])

    await stage("download", download_corpus, DownloadCorpusParameters)
    usable = results["download"].usable_sources
    await stage("score", score_corpus, ScoreCorpusParameters, sources=usable)
    await stage("rebalance", rebalance_corpus, RebalanceCorpusParameters, sources=usable)
    # The page of this run shows the artifacts too, not only the pages of its stages.
    await rebalancing.show_distribution(parameters.mixture, results["rebalance"].distribution)
    await stage("train", train_adapter, TrainAdapterParameters)
    await stage("evaluate", evaluate_adapter, EvaluateAdapterParameters)
    await evaluation.report_evaluation(layout, parameters.run)
    await stage("export", export_model, ExportModelParameters)
    await exporting.report_export(parameters.export or parameters.run, results["export"])
    async with recorded(parameters, layout, reads=[], writes=[f"runs/{parameters.run}"]):
        pass  # the recipe of the whole lies beside those of its stages
    return PipelineResult(**results)
