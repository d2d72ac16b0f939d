from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import FlowRun
from prefect.flow_engine import run_flow
from prefect.utilities.names import generate_slug

from flows import corpus_to_model as pipeline
from flows.names import is_made_up, named
from tasks.rebalancing import MixtureResult
from tasks.sources.results import DownloadResult
from tests.tasks.evals.conftest import write_finished_run
from tests.tasks.exports.conftest import an_export

pytestmark = pytest.mark.prefect


async def run_as(name: str | None, work: Any, **parameters: Any) -> FlowRun:
    """Run a flow as a worker does: the run was created before, with a name or without."""
    async with get_client() as client:
        created = await client.create_flow_run(work, name=name, parameters=parameters)
        await run_flow(work, flow_run=created, parameters=parameters)
        return await client.read_flow_run(created.id)


@flow(flow_run_name=named("counting-{count}"))
async def counting(count: int) -> int:
    return count


async def test_a_name_that_was_chosen_stays_and_a_run_without_one_gets_that_of_its_flow(prefect_server: None) -> None:
    for name in ("a night on the new corpus", "nightly-run-3", "nightly-zxq", "corpus"):
        assert (await run_as(name, counting, count=3)).name == name
    assert (await run_as(None, counting, count=3)).name == "counting-3"


def test_names_that_prefect_makes_up_are_known() -> None:
    made_up = [generate_slug(2) for _ in range(500)]
    assert [name for name in made_up if not is_made_up(name)] == []


async def test_the_pipeline_shows_its_results_on_its_own_page(
    prefect_server: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = write_finished_run(tmp_path)

    def stage(result: Any) -> Any:
        @flow
        async def work(**parameters: Any) -> Any:
            return result

        return work

    # The evaluation is a real one; what the other stages hand on is all that this flow sees of them.
    file = {"file": "model.safetensors", "bytes": 1, "sha256": "0"}
    results: dict[str, Any] = {
        "download_corpus": DownloadResult(sources=[]),
        "score_corpus": {},
        "rebalance_corpus": MixtureResult(mixture="m", digest="d", counts={}, reused=False, distribution="low 27 %"),
        "train_adapter": {},
        "export_model": an_export(files=[file], folder=str(tmp_path)),
    }
    for name, result in results.items():
        monkeypatch.setattr(pipeline, name, stage(result))
    monkeypatch.setattr(pipeline.Story, "end", lambda *arguments: None)
    wanted: dict[str, Any] = {"store": str(store), "run": "first", "max_new_tokens": 8, "perplexity_samples": 4}
    wanted["eval_limit"] = 4
    run = await run_as("ours", pipeline.corpus_to_model, **wanted, model=str(tmp_path))
    assert run.name == "ours" and run.state is not None and run.state.is_completed()
    async with get_client() as client:
        found = await client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]))
        )
    shown = {artifact.key: str(artifact.data) for artifact in found}
    assert {"mixture-distribution", "evaluation-report", "export-files", "exported-model"} <= set(shown)
    assert "low 27 %" in shown["mixture-distribution"] and "## first" in shown["evaluation-report"]
