"""The whole pipeline: the six flows as subflows, each taking up what the one before has sealed."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.download_corpus import DownloadCorpusParameters, download_corpus
from flows.evaluate_adapter import EvaluateAdapterParameters, evaluate_adapter
from flows.export_model import ExportModelParameters, export_model
from flows.parameters import takes
from flows.rebalance_corpus import RebalanceCorpusParameters, rebalance_corpus
from flows.score_corpus import ScoreCorpusParameters, score_corpus
from flows.train_adapter import TrainAdapterParameters, train_adapter


class CorpusToModelParameters(
    DownloadCorpusParameters,
    ScoreCorpusParameters,
    RebalanceCorpusParameters,
    TrainAdapterParameters,
    EvaluateAdapterParameters,
    ExportModelParameters,
):
    """Everything the six flows take."""


@flow(name="corpus-to-model", flow_run_name="corpus-to-model-{run}")
@takes(CorpusToModelParameters)
async def corpus_to_model(parameters: CorpusToModelParameters) -> dict[str, Any]:
    """Go from the archives to an exported model; a run that was interrupted repeats no finished work."""
    downloaded = await download_corpus(**parameters.pick(DownloadCorpusParameters).model_dump())
    sources = [source["source"] for source in downloaded["sources"] if source["manifest"] and source["documents"]]
    usable = parameters.model_copy(update={"sources": sources})
    return {
        "download": downloaded,
        "score": await score_corpus(**usable.pick(ScoreCorpusParameters).model_dump()),
        "rebalance": await rebalance_corpus(**usable.pick(RebalanceCorpusParameters).model_dump()),
        "train": await train_adapter(**parameters.pick(TrainAdapterParameters).model_dump()),
        "evaluate": await evaluate_adapter(**parameters.pick(EvaluateAdapterParameters).model_dump()),
        "export": await export_model(**parameters.pick(ExportModelParameters).model_dump()),
    }
