"""Evaluation as Prefect sees it: a child process, a markdown artifact, and a verdict that may gate the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import acreate_markdown_artifact

from storage.errors import ParameterError, StoreError, VerdictError
from storage.layout import CHECKPOINT_PREFIX, Layout, checked_name
from storage.manifest import digest_of
from storage.training_result import TrainedRun, read_training_result
from storage.untrusted import read_object
from tasks.evals.parameters import EvaluationParameters
from tasks.evals.report import report_markdown
from tasks.policies import LOCAL_WORK, exclusive, run_child, run_logger, shown_progress

EVALUATION_RESULTS = "evaluation_results.json"
MOST_RESULT_BYTES = 256 << 20


def find_adapter(layout: Layout, run: str, trained: TrainedRun, name: str) -> Path:
    """Return the folder of another adapter: a checkpoint of this run, or the result of another one.

    Raises:
        ParameterError: It was trained on another base model.
        StoreError: There is no such checkpoint or finished run.
    """
    if name.startswith(CHECKPOINT_PREFIX):
        folder = layout.run(run) / checked_name(name, "checkpoint")
        if not folder.is_dir():
            there = ", ".join(sorted(path.name for path in layout.run(run).glob(f"{CHECKPOINT_PREFIX}*")))
            raise StoreError(f"run {run} holds no {name}; there are {there or 'no checkpoints'}")
        return folder
    other = read_training_result(layout.run(name))
    if other.model_path != trained.model_path:
        raise ParameterError(
            f"run {name} was trained on {other.model_path}, {run} on {trained.model_path}; compare runs on one base"
        )
    return other.adapter


@task(task_run_name="evaluate-{run}", **LOCAL_WORK)
async def evaluate_run(layout: Layout, run: str, parameters: EvaluationParameters) -> dict[str, Any]:
    """Validate and evaluate the base model and the adapter of a run."""
    log = run_logger()
    folder = layout.run(run)
    trained = read_training_result(folder)
    specification = {
        "run_folder": str(folder),
        "model_path": str(trained.model_path),
        "adapter": str(trained.adapter),
        "others": {name: str(find_adapter(layout, run, trained, name)) for name in parameters.others},
        "balanced_folder": str(trained.balanced),
        "reports_folder": str(layout.reports(run)),
        "parameters": parameters.model_dump(mode="json"),
        "inputs": {"training": digest_of(trained.digest_parts)},
    }
    shown = shown_progress("evaluation", f"Evaluation of run {run}")
    async with exclusive(layout.reports(run)), shown as progress:

        def on_event(event: dict[str, Any]) -> None:
            if event["event"] == "progress":
                progress.update(event.get("done", 0), event.get("total", 1))
            log.info("%s", event.get("message") or event.get("stage") or event)

        result = await run_child("tasks.evals", specification, folder / "evaluate.json", on_event)
    return result


def mind_the_gate(result: dict[str, Any]) -> None:
    """End the run as failed when it was told to and a threshold was missed.

    Raises:
        VerdictError: The gate is closed; the message names what was found, what was asked for, and the report.
    """
    if result["gate_failed"]:
        unmet = [verdict for verdict in result["verdicts"] if verdict["decides"] and verdict["passed"] is not True]
        named = "; ".join(
            f"{verdict['title']} (found {verdict['found']}, target {verdict['target']}"
            f"{', undecided' if verdict['passed'] is None else ''})"
            for verdict in unmet
        )
        raise VerdictError(
            f"the adapter did not meet {named}; read {result['report']}, then train longer or on a better mixture, or "
            "evaluate without gate"
        )


def read_report(layout: Layout, run: str) -> str:
    """Write the report of a run that was evaluated, in Markdown.

    Raises:
        StoreError: It was not, or its results are damaged.
    """
    try:
        return report_markdown(read_object(layout.reports(run) / EVALUATION_RESULTS, MOST_RESULT_BYTES))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise StoreError(f"the results in {layout.reports(run)} are damaged ({error!r}); evaluate again") from error


@task(task_run_name="report-evaluation-{run}", **LOCAL_WORK)
async def report_evaluation(run: str, markdown: str) -> None:
    """Show the evaluation report in the UI."""
    await acreate_markdown_artifact(key="evaluation-report", markdown=markdown, description=f"Run {run}.")
