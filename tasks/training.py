"""Training as Prefect sees it: a child process that checkpoints and resumes by itself, watched from here."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from prefect import task
from prefect.artifacts import acreate_image_artifact
from pydantic import BaseModel, ConfigDict

from blocks.defaults import heed_saved
from blocks.hugging_face import HuggingFaceHub
from blocks.training_host import TrainingHost
from storage.atomic import move_aside
from storage.errors import DistrustError, MixtureError
from storage.events import Event, LogEvent, ProgressEvent
from storage.layout import Layout
from storage.manifest import MixtureNotes, digest_of, require_manifest
from storage.training_result import RUN, TrainingResult
from storage.untrusted import read_bounded, read_object
from tasks.lora import presets
from tasks.lora.base_model import architecture_of_base
from tasks.lora.check import CheckedSetup, SetupCheck
from tasks.lora.display import StepReport, as_data_url, draw_lines, loss_lines, move_bar, read_metrics, training_bar
from tasks.lora.memory import describe_plan, plan_memory, require_memory, usable_bytes
from tasks.lora.recipe import AUTO, DEFAULT_MODEL, Recipe, Specification
from tasks.policies import (
    LOCAL_WORK,
    Check,
    ChildDied,
    Progress,
    exclusive,
    run_child,
    run_logger,
    shown_progress,
    try_component,
    wait_for_server,
)

LOG_EVERY_STEPS = 10
REPORT_PATIENCE_SECONDS = 48 * 3600.0
"""How long a finished training waits for a Prefect server that is away."""
REBALANCE = "python -m flows rebalance-corpus"


class PlannedTraining(BaseModel):
    """The predicted memory of a recipe; bytes are missing where the sizes of the model are not known."""

    model_config = ConfigDict(frozen=True)

    model: str
    plan: list[str]
    peak_bytes: int | None = None
    limit_bytes: int | None = None
    fits: bool | None = None

    def summary(self) -> list[str]:
        """The model, and the parts of its memory."""
        return [f"{self.model}:", *(f"  {line}" for line in self.plan)]


async def resolve_model(recipe: Recipe, memory_gb: float | None = None) -> Recipe:
    """Replace the model ``auto`` by the preset of a machine with so much memory; of this one if left out.

    The saved blocks of hub and training host are read here, before anything is planned or fetched.
    """
    await heed_saved(HuggingFaceHub, TrainingHost)
    resolved = presets.resolve_model(recipe, memory_gb)
    if resolved != recipe:
        run_logger().info("model auto: %s, batches of %d", resolved.model, resolved.batch_size)
    return resolved


@task(task_run_name="plan-training", **LOCAL_WORK)
async def plan_recipe(recipe: Recipe, memory_gb: float | None = None) -> PlannedTraining:
    """Predict the peak memory of a recipe; at most the model's configuration is fetched.

    Args:
        recipe: The recipe.
        memory_gb: Memory of the machine that it is meant for; this machine's if left out.
    """
    recipe = await resolve_model(recipe, memory_gb)
    model = await asyncio.to_thread(architecture_of_base, recipe.model, quantise=recipe.quantize_base)
    if model is None:
        unknown = f"the sizes of {recipe.model} are not known: its memory is not planned"
        return PlannedTraining(model=recipe.model, plan=[unknown])
    plan, limit_bytes = plan_memory(model, recipe), usable_bytes(memory_gb)
    return PlannedTraining(
        model=recipe.model,
        plan=describe_plan(model, recipe, limit_bytes),
        peak_bytes=plan.total,
        limit_bytes=round(limit_bytes),
        fits=plan.fits(limit_bytes),
    )


def as_begun(layout: Layout, run: str, recipe: Recipe) -> Recipe:
    """Return the recipe with the base model of a run that began when the default was one model and not `AUTO`."""
    older = recipe.model_copy(update={"model": DEFAULT_MODEL})
    return older if recipe.model == AUTO and _same_run(layout.run(run) / RUN, older) else recipe


async def foresee_memory(recipe: Recipe) -> str:
    """Say what a training will need of this machine's memory; empty if the sizes of its model are not known here.

    Raises:
        ParameterError: It would be refused: better now than after a download of hours.
    """
    recipe = await resolve_model(recipe)
    model = None
    with contextlib.suppress(DistrustError):  # the Hub is away; the training itself will ask again
        model = await asyncio.to_thread(architecture_of_base, recipe.model, quantise=recipe.quantize_base)
    if model is None or recipe.plan_memory == "off":
        return ""
    if recipe.plan_memory == "refuse":
        require_memory(model, recipe, usable_bytes())
    peak = plan_memory(model, recipe).total
    return (
        f"training {recipe.model} needs about {peak / 1e9:.1f} of {usable_bytes() / 1e9:.1f} GB of memory; it shows "
        f"the time left after {recipe.report_every} of its {recipe.max_steps:,} steps"
    )


def refuse_poor_mixture(layout: Layout, mixture: str) -> None:
    """Refuse a mixture that cannot teach what it is meant to.

    Raises:
        MixtureError: A side of the mixture is poorly distributed.
        StoreError: There is no such mixture.
    """
    manifest = require_manifest(layout.balanced(mixture), f"build it first: {REBALANCE} --mixture {mixture}")
    if poor := [side for side, verdict in manifest.notes_as(MixtureNotes).verdict.items() if verdict == "poor"]:
        raise MixtureError(
            f"mixture {mixture} is poorly distributed ({' and '.join(poor)}), so its training signal is too weak; "
            f"rebalance it ({REBALANCE} --mixture {mixture} says what is missing), or pass accept_imbalance=true"
        )


async def supersede_other_run(layout: Layout, run: str, mixture_digest: str, recipe: Recipe) -> None:
    """Move a run out of the way that had another recipe or mixture; nothing is deleted.

    The caller holds the run's lock. A trainer whose flow was killed does not have that one: it still writes its last
    checkpoint, under the lock of the store's trainings, and is waited for.
    """
    folder = layout.run(run)
    async with exclusive(folder.parent):
        if not (folder / RUN).is_file() or _same_run(folder / RUN, recipe, mixture_digest):
            return
        key = digest_of(read_bounded(folder / RUN).decode("utf-8", errors="replace"))
        place = move_aside(folder, layout.set_aside("runs", run, key))
    run_logger().warning("run %s had another recipe or mixture; it was moved to %s", run, place)


def _same_run(record: Path, recipe: Recipe, mixture_digest: str | None = None) -> bool:
    """Return whether a run's record names this recipe, and this mixture if one is given; a damaged one does not."""
    try:
        content = read_object(record)
        earlier = Recipe.model_validate(content["recipe"])
        return earlier.identity() == recipe.identity() and mixture_digest in (None, content["mixture_digest"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return False


@task(task_run_name="train-{run}", **LOCAL_WORK)
async def train_recipe(
    layout: Layout, run: str, mixture: str, recipe: Recipe, *, replace_run: bool = False
) -> TrainingResult:
    """Run or resume a recipe on a mixture; what is finished already is not repeated.

    A cancelled run ends its child, which saves a checkpoint first. A server that goes away stops nothing; it learns of
    the end when it is back.

    Args:
        layout: The store.
        run: Name of the run; if another process writes it, this one waits.
        mixture: Name of the mixture.
        recipe: The recipe.
        replace_run: Set an earlier run of this name aside if its recipe or mixture differs.
    """
    balanced, folder = layout.balanced(mixture), layout.run(run)
    async with exclusive(folder), shown_progress("training", f"Training run {run}") as progress:
        # Read now: while another training was waited for, the mixture may have been built again.
        manifest = require_manifest(balanced, f"build it first: {REBALANCE} --mixture {mixture}")
        if replace_run:
            await supersede_other_run(layout, run, manifest.digest, recipe)
        specification = Specification(
            run_folder=folder, balanced_folder=balanced, mixture_digest=manifest.digest, recipe=recipe
        )
        with training_bar(hidden=Progress.watcher is not None) as bar:

            def on_event(event: Event) -> None:
                if isinstance(event, LogEvent):
                    bar.clear()  # the next report draws it below the line
                    run_logger().info("%s", event.message)
                elif isinstance(event, ProgressEvent):
                    report = StepReport.model_validate(event.model_dump())
                    progress.update(report.step, report.max_steps, f"Run {run}, {report.line}")
                    if not bar.disable:
                        move_bar(bar, report)
                    elif report.step % LOG_EVERY_STEPS == 0 or report.step == report.max_steps:
                        run_logger().info("%s", report.line)

            try:
                result = await run_child("tasks.lora", specification, folder / "train.json", on_event, TrainingResult)
            except (DistrustError, ChildDied):
                await wait_for_server(REPORT_PATIENCE_SECONDS)
                raise
            await wait_for_server(REPORT_PATIENCE_SECONDS)
            return result


@task(task_run_name="report-training-{run}", **LOCAL_WORK)
async def report_training(layout: Layout, run: str) -> None:
    """Show the run's loss curve in the UI."""
    picture = draw_lines(f"Run {run}", loss_lines(read_metrics(layout.run(run))), "cross-entropy (nats per token)")
    if picture is not None:
        await acreate_image_artifact(
            image_url=as_data_url(picture), key="training-curve", description=f"Losses of run {run}."
        )


@task(task_run_name="check-training", **LOCAL_WORK)
async def check_training(layout: Layout, load_model: str) -> list[Check]:
    """Try the accelerator, the objective and a few training steps in a child process."""
    found: list[Check] = []

    async def work() -> str:
        await heed_saved(HuggingFaceHub, TrainingHost)
        wanted, file = SetupCheck(load_model=load_model), layout.root / "check-setup" / "check.json"
        result = await run_child("tasks.lora.check", wanted, file, lambda event: None, CheckedSetup)
        found.extend(Check(*row) for row in result.checks)
        return result.device

    device = await try_component("accelerator", work)
    return [device, *found]
