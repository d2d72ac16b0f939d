"""Train: run or resume a LoRA recipe on a balanced mixture (the work pool of the Mac)."""

from __future__ import annotations

from typing import Any

from prefect import flow
from pydantic import Field

from flows.parameters import FlowParameters, takes
from storage.layout import NAME_PATTERN
from tasks import training
from tasks.lora.recipe import Recipe


class TrainAdapterParameters(FlowParameters, Recipe):
    """The recipe, the mixture it learns from and the name of the run."""

    mixture: str = Field("default", pattern=NAME_PATTERN, title="Mixture", description="Name of the balanced mixture.")
    run: str = Field("distrust", pattern=NAME_PATTERN, title="Run", description="Name of the training run.")
    replace_run: bool = Field(
        False,
        title="Replace run",
        description="Set an earlier run of this name aside when its recipe or mixture differs, instead of stopping.",
    )


@flow(name="train-adapter", flow_run_name="train-adapter-{run}")
@takes(TrainAdapterParameters)
async def train_adapter(parameters: TrainAdapterParameters) -> dict[str, Any]:
    """Train a LoRA adapter with the distrust objective; an interrupted run goes on where it stopped."""
    layout = await parameters.open_store()
    if parameters.replace_run:
        training.set_other_run_aside(layout, parameters.run, parameters.mixture, parameters.pick(Recipe))
    return await training.train_recipe(layout, parameters.run, parameters.mixture, parameters.pick(Recipe))
