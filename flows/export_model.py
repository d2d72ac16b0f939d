"""Export: fuse the adapter into its base and save a model that other programs open."""

from __future__ import annotations

from prefect import flow

from flows.forms import ExportModelParameters
from flows.names import named
from flows.parameters import takes
from flows.records import recorded
from tasks import exporting
from tasks.approval import ask_to_upload
from tasks.chain import announce_sealed
from tasks.exports.export_manifest import ExportResult
from tasks.exports.parameters import ExportParameters


@flow(name="export-model", flow_run_name=named("export-model-{run}"))
@takes(ExportModelParameters)
async def export_model(parameters: ExportModelParameters) -> ExportResult:
    """Merge the adapter into the base model, compare the two and write the forms that are asked for."""
    layout = await parameters.open_store()
    name = parameters.export or parameters.run

    async def export(wanted: ExportParameters, approved: str | None = None) -> ExportResult:
        async with recorded(parameters, layout, reads=[f"runs/{parameters.run}"], writes=[f"exports/{name}"]):
            return await exporting.export_run(layout, parameters.run, name, wanted, approved)

    wanted = parameters.pick(ExportParameters)
    asks = parameters.approve and wanted.hub_repository and not wanted.hub_dry_run
    result = await export(wanted.model_copy(update={"hub_dry_run": True}) if asks else wanted)
    # An answer takes days, in which the run may be trained or evaluated again: changed content is shown again.
    while asks and result.hub and not result.hub.uploaded:
        summary = await exporting.report_upload(name, result)
        if not await ask_to_upload(summary, result.hub.digest):
            break
        result = await export(wanted, approved=result.hub.digest)
    await exporting.report_export(name, result)
    announce_sealed("exported", name, parameters.store, run=parameters.run)
    return result
