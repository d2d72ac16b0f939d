"""Export as Prefect sees it: a child process that fuses and writes, then artifacts that say what came out."""

from __future__ import annotations

from pathlib import Path

from prefect import task
from prefect.artifacts import acreate_link_artifact, acreate_markdown_artifact, acreate_table_artifact

from blocks.defaults import heed_saved
from blocks.hugging_face import HuggingFaceHub
from storage.events import LogEvent, ProgressEvent
from storage.layout import Layout
from storage.markdown import table
from storage.training_result import read_training_result
from tasks.exports.export_manifest import ExportResult
from tasks.exports.parameters import ExportParameters, ExportRequest
from tasks.policies import LOCAL_WORK, exclusive, run_child, run_logger


@task(task_run_name="export-{run}", **LOCAL_WORK)
async def export_run(
    layout: Layout, run: str, name: str, parameters: ExportParameters, approved: str | None = None
) -> ExportResult:
    """Fuse the adapter of a run into its base and save the model as a folder that MLX opens.

    With the digest of an `approved` upload, no other content is uploaded.
    """
    log = run_logger()
    if parameters.hub_repository:
        await heed_saved(HuggingFaceHub)
    folder = layout.run(run)
    trained = read_training_result(folder)
    request = ExportRequest(
        run_folder=folder,
        model_path=trained.model_path,
        adapter=trained.adapter,
        export_folder=layout.export(name),
        reports_folder=layout.reports(run),
        balanced_folder=trained.balanced,
        parameters=parameters,
        approved=approved,
    )
    specification = folder / "export.json"
    # The child reads its request from a file of the run, which every export of the run writes.
    async with exclusive(layout.export(name)), exclusive(specification):
        return await run_child(
            "tasks.exports",
            request,
            specification,
            lambda event: log.info("%s", event.message if isinstance(event, LogEvent | ProgressEvent) else event),
            ExportResult,
        )


@task(task_run_name="report-upload-{name}", **LOCAL_WORK)
async def report_upload(name: str, result: ExportResult) -> str:
    """Show what an export would send to the Hub and waits for approval; return it in Markdown."""
    upload, agreement = result.hub, result.top1_agreement
    assert upload is not None
    summary = (
        f"## Upload export `{name}` to `{upload.repository}`?\n\n"
        f"{len(upload.files)} files with `export.json`, {upload.bytes / 1e6:,.1f} MB, "
        "to a private repository of the Hugging Face Hub. "
        f"Agreement with the adapter: {'not measured' if agreement is None else f'{agreement:.3f}'}. "
        "Resume the run to answer; cancel it to send nothing.\n\n"
        f"{table(['file', 'bytes'], [(record.file, f'{record.bytes:,}') for record in result.files], ['bytes'])}\n"
    )
    await acreate_markdown_artifact(key="upload-approval", markdown=summary, description=f"Upload of export {name}.")
    return summary


@task(task_run_name="report-export-{name}", **LOCAL_WORK)
async def report_export(name: str, result: ExportResult) -> None:
    """Show the exported files with sizes and hashes, and a link to their folder."""
    files = [record.model_dump() for record in result.files]
    await acreate_table_artifact(key="export-files", table=files, description=f"Export {name}. {result.precision}")
    await acreate_link_artifact(
        key="exported-model",
        link=Path(result.folder).as_uri(),
        link_text=result.folder,
        description=f"Open with MLX or LM Studio; serve with `python -m tasks.exports.serve {name}`.",
    )
