"""Training as Prefect sees it: a child process that checkpoints and resumes by itself, watched from here."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import acreate_image_artifact

from blocks.defaults import heed_saved
from blocks.hugging_face import HuggingFaceHub
from blocks.training_host import TrainingHost
from storage.errors import DistrustError, MixtureError
from storage.layout import Layout
from storage.manifest import MixtureNotes, digest_of, require_manifest
from storage.superseded import move_aside
from storage.training_result import RUN
from storage.untrusted import read_bounded, read_object
from tasks.lora import presets
from tasks.lora.base_model import architecture_of_base
from tasks.lora.curve import as_address, draw_lines
from tasks.lora.memory import describe_plan, plan_memory, usable_bytes
from tasks.lora.metrics import loss_lines, read_metrics
from tasks.lora.recipe import Recipe
from tasks.lora.terminal import TrainingBar, describe_step, training_bar
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


async def settle_model(recipe: Recipe, memory_gb: float | None = None) -> Recipe:
    """Replace the model ``auto`` by the preset of a machine with so much memory, of this one where nothing is said.

    The saved blocks of hub and training host are read here, before anything is planned or fetched.
    """
    await heed_saved(HuggingFaceHub, TrainingHost)
    settled = presets.settle_model(recipe, memory_gb)
    if settled != recipe:
        run_logger().info("model auto: %s, batches of %d", settled.model, settled.batch_size)
    return settled


@task(task_run_name="plan-training", **LOCAL_WORK)
async def plan_recipe(recipe: Recipe, memory_gb: float | None = None) -> dict[str, Any]:
    """Predict the peak memory of a recipe; at most the model's configuration is fetched.

    Args:
        recipe: The recipe.
        memory_gb: Memory of the machine that it is meant for; this machine's when left out.
    """
    recipe = await settle_model(recipe, memory_gb)
    model = await asyncio.to_thread(architecture_of_base, recipe.model, quantise=recipe.quantize_base)
    if model is None:
        return {
            "model": recipe.model,
            "plan": [f"the sizes of {recipe.model} are not known: its memory is not planned"],
        }
    plan, limit_bytes = plan_memory(model, recipe), usable_bytes(memory_gb)
    return {
        "model": recipe.model,
        "plan": describe_plan(model, recipe, limit_bytes),
        "peak_bytes": plan.total,
        "limit_bytes": round(limit_bytes),
        "fits": plan.fits(limit_bytes),
    }


def refuse_poor_mixture(layout: Layout, mixture: str) -> None:
    """Stop before a training that cannot teach what it is meant to.

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


async def set_other_run_aside(layout: Layout, run: str, mixture_digest: str, recipe: Recipe) -> None:
    """Move a run out of the way that had another recipe or mixture; nothing is deleted.

    The caller holds the run's lock. A trainer whose flow was killed does not have that one: it still writes its last
    checkpoint, under the lock of the store's training slot, and is waited for.
    """
    folder = layout.run(run)
    async with exclusive(folder.parent):
        if not (folder / RUN).is_file() or _is_of(folder / RUN, recipe, mixture_digest):
            return
        key = digest_of(read_bounded(folder / RUN).decode("utf-8", errors="replace"))
        aside = move_aside(folder, layout.set_aside("runs", run, key))
    run_logger().warning("run %s had another recipe or mixture; it was moved to %s", run, aside)


def _is_of(record: Path, recipe: Recipe, mixture_digest: str) -> bool:
    """Tell whether a run's record is of this recipe and mixture; one that cannot be read is of another."""
    try:
        content = read_object(record)
        earlier = Recipe.model_validate(content["recipe"])
        return earlier.identity() == recipe.identity() and bool(content["mixture_digest"] == mixture_digest)
    except (ValueError, KeyError, TypeError):
        return False


def _tell(run: str, progress: Progress, bar: TrainingBar | None, event: dict[str, Any]) -> None:
    """Show an event of the trainer: on the terminal's bar where there is one, else in the log, and in the UI."""
    if event["event"] == "progress":
        line = describe_step(event)
        progress.update(event["step"], event["max_steps"], f"Run {run}, {line}")
        if bar is not None:
            bar.show(event)
        elif event["step"] % LOG_EVERY_STEPS == 0 or event["step"] == event["max_steps"]:
            run_logger().info("%s", line)
    elif event["event"] == "log":
        if bar is not None:
            bar.give_way()
        run_logger().info("%s", event["message"])


@task(task_run_name="train-{run}", **LOCAL_WORK)
async def train_recipe(
    layout: Layout, run: str, mixture: str, recipe: Recipe, *, replace_run: bool = False
) -> dict[str, Any]:
    """Run or resume a recipe on a mixture; what is finished already is not repeated.

    A cancelled run ends its child, which saves a checkpoint first. A server that goes away stops nothing; its end is
    told when it is back.

    Args:
        layout: The store.
        run: Name of the run; whoever writes it is waited for.
        mixture: Name of the mixture.
        recipe: The recipe.
        replace_run: Set an earlier run of this name aside if its recipe or mixture differs.
    """
    balanced, folder = layout.balanced(mixture), layout.run(run)
    async with exclusive(folder), shown_progress("training", f"Training run {run}") as progress:
        # Read now: while another training was waited for, the mixture may have been built anew.
        manifest = require_manifest(balanced, f"build it first: {REBALANCE} --mixture {mixture}")
        if replace_run:
            await set_other_run_aside(layout, run, manifest.digest, recipe)
        specification = {
            "run_folder": str(folder),
            "balanced_folder": str(balanced),
            "mixture_digest": manifest.digest,
            "recipe": recipe.model_dump(mode="json"),
        }
        with training_bar() as bar:
            on_event = partial(_tell, run, progress, bar)
            try:
                result = await run_child("tasks.lora", specification, folder / "train.json", on_event)
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
            image_url=as_address(picture), key="training-curve", description=f"Losses of run {run}."
        )


@task(task_run_name="check-training", **LOCAL_WORK)
async def check_training(layout: Layout, load_model: str) -> list[Check]:
    """Try the accelerator, the objective and a few training steps in a child process."""
    found: list[dict[str, Any]] = []

    async def work() -> str:
        await heed_saved(HuggingFaceHub, TrainingHost)
        specification = {"load_model": load_model}
        folder = layout.root / "check-setup"
        result = await run_child("tasks.lora.check", specification, folder / "check.json", lambda event: None)
        found.extend(result["checks"])
        return str(result["device"])

    device = await try_component("accelerator", work)
    return [device, *(Check(**check) for check in found)]
