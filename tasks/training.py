"""Training as Prefect sees it: a child process that checkpoints and resumes by itself, watched from here."""

from __future__ import annotations

import json
import os
from typing import Any

from prefect import task

from storage.layout import Layout
from storage.manifest import digest_of, require_manifest
from storage.training_result import RUN
from tasks.lora.recipe import Recipe
from tasks.policies import LOCAL_WORK, Check, exclusive, run_child, run_logger, shown_progress, try_component

LOG_EVERY_STEPS = 10
REBALANCE = "python -m flows rebalance-corpus"


def set_other_run_aside(layout: Layout, run: str, mixture: str, recipe: Recipe) -> None:
    """Move a run out of the way that had another recipe or mixture; nothing is deleted."""
    folder = layout.run(run)
    if not (folder / RUN).is_file():
        return
    record = json.loads((folder / RUN).read_text("utf-8"))
    manifest = require_manifest(layout.balanced(mixture), f"build it first: {REBALANCE} --mixture {mixture}")
    earlier = Recipe.model_validate(record["recipe"])
    if earlier.identity() == recipe.identity() and record["mixture_digest"] == manifest.digest:
        return
    aside = layout.set_aside("runs", run, digest_of(record))
    aside.parent.mkdir(parents=True, exist_ok=True)
    os.replace(folder, aside)
    run_logger().info("run %s had another recipe or mixture; it lies in %s now", run, aside)


@task(task_run_name="train-{run}", **LOCAL_WORK)
async def train_recipe(layout: Layout, run: str, mixture: str, recipe: Recipe) -> dict[str, Any]:
    """Run or resume a recipe on a mixture; what is finished already is not repeated."""
    log = run_logger()
    balanced = layout.balanced(mixture)
    manifest = require_manifest(balanced, f"build it first: {REBALANCE} --mixture {mixture}")
    folder = layout.run(run)
    specification = {
        "run_folder": str(folder),
        "balanced_folder": str(balanced),
        "mixture_digest": manifest.digest,
        "recipe": recipe.model_dump(mode="json"),
    }
    async with exclusive(folder), shown_progress("training", f"Training run {run}") as progress:

        def on_event(event: dict[str, Any]) -> None:
            if event["event"] == "progress":
                progress.update(event["step"], event["max_steps"])
                if event["step"] % LOG_EVERY_STEPS == 0 or event["step"] == event["max_steps"]:
                    log.info("%s", describe_step(event))
            elif event["event"] == "log":
                log.info("%s", event["message"])
            else:
                log.info("%s", {key: value for key, value in event.items()})

        return await run_child("tasks.lora", specification, folder / "train.json", on_event)


def describe_step(event: dict[str, Any]) -> str:
    """Write one training step as a line for a person."""
    return (
        f"step {event['step']}/{event['max_steps']}: ce {event['ce']:.3f}, distrust {event['distrust']:.2f}, "
        f"total {event['total']:.2f}, {event['tokens_per_second']:.0f} tok/s, mem {event['peak_memory_gb']:.2f} GB"
    )


@task(task_run_name="check-training", **LOCAL_WORK)
async def check_training(layout: Layout, load_model: str) -> list[Check]:
    """Try the accelerator, the objective and a few training steps in a child process."""
    found: list[dict[str, Any]] = []

    async def work() -> str:
        specification = {"load_model": load_model}
        folder = layout.root / "check-setup"
        result = await run_child("tasks.lora.check", specification, folder / "check.json", lambda event: None)
        found.extend(result["checks"])
        return str(result["device"])

    device = await try_component("accelerator", work)
    return [device, *(Check(**check) for check in found)]
