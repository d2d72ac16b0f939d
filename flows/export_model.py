"""Export: fuse the adapter into its base and save a model that other programs open."""

from __future__ import annotations

from typing import Any

from prefect import flow
from pydantic import Field

from flows.parameters import FlowParameters, takes
from storage.layout import NAME_PATTERN
from tasks import exporting
from tasks.exports.parameters import ExportParameters
from tasks.mirroring import shared


class ExportModelParameters(FlowParameters, ExportParameters):
    """Which run to export, and in what form."""

    run: str = Field("distrust", pattern=NAME_PATTERN, title="Run", description="Name of the training run.")
    export: str = Field("", title="Export", description="Name of the exported model; empty: the name of the run.")


@flow(name="export-model", flow_run_name="export-model-{run}")
@takes(ExportModelParameters)
async def export_model(parameters: ExportModelParameters) -> dict[str, Any]:
    """Merge the adapter into the base model, compare the two and write the forms that are asked for."""
    layout = await parameters.open_store()
    name = parameters.export or parameters.run
    async with shared(layout, reads=[f"runs/{parameters.run}"], writes=[f"exports/{name}"]):
        result = await exporting.export_run(layout, parameters.run, name, parameters.pick(ExportParameters))
    await exporting.report_export(name, result)
    return result
