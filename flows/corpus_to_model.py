"""The whole pipeline: the six flows as subflows, each of which reads what the one before has sealed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import Flow, flow
from pydantic import BaseModel, ConfigDict

from flows.download_corpus import choose_sources, download_corpus
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
from flows.story import Story
from flows.train_adapter import train_adapter
from storage.atomic import write_text
from storage.training_result import RESULT
from tasks import archives, evaluation, exporting, rebalancing, training
from tasks.lora.recipe import Recipe
from tasks.sources.connection import Pace


class PipelineResult(BaseModel):
    """What each stage of the pipeline returned."""

    model_config = ConfigDict(frozen=True)

    download: Any
    score: Any
    rebalance: Any
    train: Any
    evaluate: Any
    export: Any
    details: Path
    """File that says what each stage did in full; the recipe of the run lies beside it."""

    def summary(self) -> list[str]:
        """The verdict, and where the results are; what each stage did was told when it was done."""
        return [
            "",
            f"Verdict: {self.evaluate.conclusion or self.evaluate.summary()[0]}",
            "",
            f"Report:  {self.evaluate.report}",
            f"Model:   {self.export.folder}",
            f"Details: {self.details}",
        ]


@flow(name="corpus-to-model", flow_run_name=named("corpus-to-model-{run}"))
@takes(CorpusToModelParameters)
async def corpus_to_model(parameters: CorpusToModelParameters) -> PipelineResult:
    """Go from the archives to an exported model; a run that was interrupted repeats no finished work."""
    results: dict[str, Any] = {}
    story = Story()
    layout = await parameters.open_store()  # a wrong name at the last stage is reported before the first
    if parameters.path and not parameters.sources:  # a folder of one's own need not hold every band of authority
        parameters = parameters.model_copy(update={"accept_imbalance": True})

    if layout.bucket is None and not (layout.run(parameters.run) / RESULT).exists():
        specs = await choose_sources(parameters)
        pace = Pace(parameters.concurrency, parameters.rate_limit)
        download = await archives.foresee_download(specs, parameters.max_samples, pace, layout)
        story.foretell(download, await training.foresee_memory(parameters.pick(Recipe)))

    async def stage(name: str, run: Flow[..., Any], model: type[BaseModel], **changes: Any) -> None:
        story.begin(name)
        results[name] = await run(**parameters.pick(model).model_dump() | changes)
        story.end(name, results[name])

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
        details = layout.run(parameters.run) / "corpus-to-model.txt"
        write_text(details, "\n".join(story.told))
    return PipelineResult(**results, details=details)
