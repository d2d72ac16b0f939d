"""Evaluation as Prefect sees it: a child process, and a Markdown artifact of its report."""

from __future__ import annotations

from pathlib import Path

from prefect import task
from prefect.artifacts import acreate_markdown_artifact

from storage.errors import ParameterError, StoreError
from storage.events import Event, ProgressEvent
from storage.layout import CHECKPOINT_PREFIX, Layout, checked_name
from storage.manifest import digest_of
from storage.training_result import TrainedRun, read_training_result
from tasks.evals.inputs import EvaluationSpec
from tasks.evals.parameters import EvaluationParameters
from tasks.evals.report import report_markdown
from tasks.evals.results import EvaluationResult as EvaluationResult
from tasks.evals.results import read_results
from tasks.policies import LOCAL_WORK, exclusive, run_child, run_logger, shown_progress


def find_adapter(layout: Layout, run: str, trained: TrainedRun, name: str) -> Path:
    """Return the folder of another adapter: a checkpoint of this run, or the result of another run.

    Raises:
        ParameterError: It was trained on another base model.
        StoreError: There is no such checkpoint or finished run.
    """
    if name.startswith(CHECKPOINT_PREFIX):
        folder = layout.run(run) / checked_name(name, "checkpoint")
        if not folder.is_dir():
            there = ", ".join(sorted(path.name for path in layout.run(run).glob(f"{CHECKPOINT_PREFIX}*")))
            raise StoreError(f"run {run} does not have {name}; it has {there or 'no checkpoints'}")
        return folder
    other = read_training_result(layout.run(name))
    if other.model_path != trained.model_path:
        raise ParameterError(
            f"run {name} was trained on {other.model_path}, {run} on {trained.model_path}; compare runs on one base"
        )
    return other.adapter


@task(task_run_name="evaluate-{run}", **LOCAL_WORK)
async def evaluate_run(layout: Layout, run: str, parameters: EvaluationParameters) -> EvaluationResult:
    """Validate and evaluate the base model and the adapter of a run."""
    log = run_logger()
    folder = layout.run(run)
    trained = read_training_result(folder)
    # The child has another current folder.
    files = tuple(str(Path(name).expanduser().absolute()) for name in parameters.questions)
    spec = EvaluationSpec(
        run_folder=folder,
        model_path=str(trained.model_path),
        adapter=trained.adapter,
        others={name: find_adapter(layout, run, trained, name) for name in parameters.others},
        balanced_folder=trained.balanced,
        reports_folder=layout.reports(run),
        parameters=parameters.model_copy(update={"questions": files}),
        inputs={"training": digest_of(trained.digest_parts)},
    )
    shown = shown_progress("evaluation", f"Evaluation of run {run}")
    async with exclusive(layout.reports(run)), shown as progress:

        def on_event(event: Event) -> None:
            if isinstance(event, ProgressEvent):
                progress.update(event.done, event.total)
            log.info("%s", getattr(event, "message", "") or getattr(event, "stage", "") or event.line())

        return await run_child("tasks.evals", spec, folder / "evaluate.json", on_event, EvaluationResult)


@task(task_run_name="report-evaluation-{run}", **LOCAL_WORK)
async def report_evaluation(layout: Layout, run: str) -> None:
    """Show the report of a run that was evaluated in the UI.

    Raises:
        StoreError: The run was not evaluated, or its results are damaged.
    """
    folder = layout.reports(run)
    try:
        markdown = report_markdown(read_results(folder))
    except (OSError, ValueError) as error:
        raise StoreError(f"the results in {folder} are damaged ({error!r}); evaluate again") from error
    await acreate_markdown_artifact(key="evaluation-report", markdown=markdown, description=f"Run {run}.")
