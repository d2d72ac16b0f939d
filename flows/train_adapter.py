"""Train: run or resume a LoRA recipe on a balanced mixture (the work pool of the Mac)."""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Crashed

from flows.forms import TrainAdapterForm, TrainAdapterParameters
from flows.names import named
from flows.parameters import takes
from flows.records import recorded
from storage.layout import Layout
from storage.training_result import TrainingResult
from tasks import training
from tasks.chain import announce_sealed
from tasks.lora.recipe import Recipe
from tasks.policies import ChildDied


@flow(name="train-adapter", flow_run_name=named("train-adapter-{run}"))
@takes(TrainAdapterForm)
async def train_adapter(
    parameters: TrainAdapterForm,
) -> TrainingResult | training.PlannedTraining | State[TrainingResult]:
    """Train a LoRA adapter with the distrust objective; an interrupted run continues where it stopped."""
    layout = await parameters.open_store()
    if parameters.plan:
        return await training.plan_recipe(parameters.pick(Recipe), parameters.memory_gb or None)
    reads, writes = [f"balanced/{parameters.mixture}"], [f"runs/{parameters.run}"]
    async with recorded(parameters, layout, reads=reads, writes=writes):
        recipe = training.as_begun(layout, parameters.run, parameters.pick(Recipe))
        result = await train_in_store(layout, await training.resolve_model(recipe), parameters)
    if not isinstance(result, State):
        announce_sealed("trained", parameters.run, parameters.store, mixture=parameters.mixture)
    return result


async def train_in_store(
    layout: Layout, recipe: Recipe, parameters: TrainAdapterParameters
) -> TrainingResult | State[TrainingResult]:
    """Train on a mixture of this store."""
    if not parameters.accept_imbalance:
        training.refuse_poor_mixture(layout, parameters.mixture)
    try:
        result = await training.train_recipe(
            layout, parameters.run, parameters.mixture, recipe, replace_run=parameters.replace_run
        )
    except ChildDied as error:
        # The run itself is sound: started again, it continues from its newest checkpoint.
        return Crashed(message=f"{error}\nStart the run again: it continues from its newest checkpoint.")
    await training.report_training(layout, parameters.run)
    return result
