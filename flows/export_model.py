"""Export: fuse the adapter into its base and save a model that other programs open."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from prefect import flow

from flows.forms import ExportModelParameters
from flows.names import named
from flows.parameters import takes
from tasks import exporting
from tasks.approval import ask_to_upload
from tasks.chain import announce_sealed
from tasks.exports.parameters import ExportParameters
from tasks.mirroring import shared


@flow(name="export-model", flow_run_name=named("export-model-{run}"))
@takes(ExportModelParameters)
async def export_model(parameters: ExportModelParameters) -> dict[str, Any]:
    """Merge the adapter into the base model, compare the two and write the forms that are asked for."""
    layout = await parameters.open_store()
    name = parameters.export or parameters.run

    async def export(wanted: ExportParameters, approved: str | None = None) -> dict[str, Any]:
        async with shared(layout, reads=[f"runs/{parameters.run}"], writes=[f"exports/{name}"]):
            return await exporting.export_run(layout, parameters.run, name, wanted, approved)

    wanted = parameters.pick(ExportParameters)
    if parameters.approve and wanted.hub_repository and not wanted.hub_dry_run:
        result = await upload_what_is_approved(name, wanted, export)
    else:
        result = await export(wanted)
    await exporting.report_export(name, result)
    announce_sealed("exported", name, parameters.store, run=parameters.run)
    return result


async def upload_what_is_approved(
    name: str, wanted: ExportParameters, export: Callable[..., Awaitable[dict[str, Any]]]
) -> dict[str, Any]:
    """Export, show a person what would be sent, and send exactly that.

    An answer takes days, in which the run may be trained or evaluated again: what it did not hold for is shown anew.
    """
    result = await export(wanted.model_copy(update={"hub_dry_run": True}))
    while not result["hub"]["uploaded"]:
        summary, digest = exporting.describe_upload(name, result)
        await exporting.report_upload(name, summary)
        if not await ask_to_upload(summary, digest):
            break
        result = await export(wanted, approved=digest)
    return result
