"""Compare: train one recipe with several alphas, objectives or base models, and put the results side by side."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.exceptions import CrashedRun

from flows.forms import CompareRecipesParameters, TrainAdapterParameters
from flows.names import named
from flows.parameters import takes
from flows.records import recorded
from flows.train_adapter import train_adapter
from storage.errors import DistrustError, UserError
from tasks import comparing
from tasks.lora.comparison import ComparedRun, Comparison, variants
from tasks.lora.recipe import Recipe

CHOICES = {"alpha": "alphas", "objective": "objectives", "model": "models"}


@flow(name="compare-recipes", flow_run_name=named("compare-recipes-{run}"))
@takes(CompareRecipesParameters)
async def compare_recipes(parameters: CompareRecipesParameters) -> Comparison:
    """Train every variant, one after the other; a second run of the flow repeats none that is finished."""
    layout = await parameters.open_store()
    common = parameters.pick(TrainAdapterParameters).model_dump()
    choices = {field: getattr(parameters, given) for field, given in CHOICES.items()}
    rows = []
    for suffix, recipe in variants(parameters.pick(Recipe), choices).items():
        run = f"{parameters.run}-{suffix}"
        try:
            result: Any = await train_adapter(**common | recipe.model_dump() | {"run": run})
            rows.append(ComparedRun.of(run, result))
        except (DistrustError, CrashedRun) as error:  # a killed trainer is a crash of its run alone
            rows.append(ComparedRun(run=run, problem=str(error)))
    async with recorded(parameters, layout, reads=[], writes=[f"comparisons/{parameters.run}"]):
        report = await comparing.report_comparison(layout, parameters.run, rows)
    if failed := [f"{row.run}: {row.problem}" for row in rows if row.problem is not None]:
        raise UserError(
            f"{len(failed)} of {len(rows)} runs failed; the others are in {report.folder}. {'; '.join(failed)}"
        )
    return report
