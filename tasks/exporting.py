"""Export as Prefect sees it: a child process that fuses and writes, then artifacts that say what came out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import acreate_link_artifact, acreate_markdown_artifact, acreate_table_artifact

from blocks.defaults import heed_saved
from blocks.hugging_face import HuggingFaceHub
from storage.layout import Layout
from storage.training_result import read_training_result
from tasks.exports.parameters import ExportParameters
from tasks.policies import LOCAL_WORK, exclusive, run_child, run_logger


@task(task_run_name="export-{run}", **LOCAL_WORK)
async def export_run(
    layout: Layout, run: str, name: str, parameters: ExportParameters, approved: str | None = None
) -> dict[str, Any]:
    """Fuse the adapter of a run into its base and save the model as a folder that MLX opens.

    Args:
        layout: The store.
        run: Name of the training run.
        name: Name of the export.
        parameters: The forms that are asked for.
        approved: Digest of the only content that may be uploaded; none: whatever comes out.
    """
    log = run_logger()
    if parameters.hub_repository:
        await heed_saved(HuggingFaceHub)
    folder = layout.run(run)
    trained = read_training_result(folder)
    specification = {
        "run_folder": str(folder),
        "model_path": str(trained.model_path),
        "adapter": str(trained.adapter),
        "export_folder": str(layout.export(name)),
        "reports_folder": str(layout.reports(run)),
        "balanced_folder": str(trained.balanced),
        "parameters": parameters.model_dump(mode="json"),
        "approved": approved,
    }
    told = folder / "export.json"
    # The child reads what to do from a file of the run, which every export of the run writes.
    async with exclusive(layout.export(name)), exclusive(told):
        return await run_child(
            "tasks.exports", specification, told, lambda event: log.info("%s", event.get("message", event))
        )


def describe_upload(name: str, result: dict[str, Any]) -> tuple[str, str]:
    """Describe what an export would send to the Hub, in Markdown, and return the digest of its content beside it."""
    hub = result["hub"]
    rows = "\n".join(f"| {record['file']} | {record['bytes']:,} |" for record in result["files"])
    agreement = result["top1_agreement"]
    summary = (
        f"## Upload export `{name}` to `{hub['repository']}`?\n\n"
        f"{len(hub['files'])} files with `export.json`, {hub['bytes'] / 1e6:,.1f} MB, "
        "to a private repository of the Hugging Face Hub. "
        f"Agreement with the adapter: {'not measured' if agreement is None else f'{agreement:.3f}'}. "
        "Resume the run to answer; cancel it to send nothing.\n\n"
        f"| file | bytes |\n|---|---:|\n{rows}\n"
    )
    return summary, hub["digest"]


@task(task_run_name="report-upload-{name}", **LOCAL_WORK)
async def report_upload(name: str, summary: str) -> None:
    """Show what waits for approval."""
    await acreate_markdown_artifact(key="upload-approval", markdown=summary, description=f"Upload of export {name}.")


@task(task_run_name="report-export-{name}", **LOCAL_WORK)
async def report_export(name: str, result: dict[str, Any]) -> None:
    """Show the exported files with sizes and hashes, and a link to their folder."""
    await acreate_table_artifact(
        key="export-files", table=result["files"], description=f"Export {name}. {result['precision']}"
    )
    await acreate_link_artifact(
        key="exported-model",
        link=Path(result["folder"]).as_uri(),
        link_text=result["folder"],
        description=f"Open with MLX or LM Studio; serve with `python -m tasks.exports.serve {name}`.",
    )
