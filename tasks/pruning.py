"""Pruning as Prefect sees it: one task that removes what may go, one that shows what and why."""

from __future__ import annotations

import asyncio

from prefect import task
from prefect.artifacts import acreate_markdown_artifact

from storage.errors import ParameterError
from storage.layout import Layout
from storage.markdown import table
from storage.retention import Pruned, Pruning, RetentionParameters, plan_removals, remove
from tasks.policies import LOCAL_WORK, run_logger


@task(task_run_name="prune-store", **LOCAL_WORK)
async def prune(layout: Layout, keep: RetentionParameters, *, dry_run: bool) -> Pruning:
    """Find what may go and, unless this is a dry run, remove it; ParameterError if the store is a bucket."""
    if layout.bucket is not None:
        raise ParameterError(
            f"{layout.bucket.uri} is a bucket: give it a lifecycle rule there; its mirror {layout.root} may be deleted "
            "while no run is active; needed files are fetched again"
        )
    entries = []
    for removal in await asyncio.to_thread(plan_removals, layout, keep):
        size, outcome = removal.bytes, "would go"
        if not dry_run:
            gone = await asyncio.to_thread(remove, layout, removal, keep)
            outcome = "removed" if gone else "kept: in use, or needed again"
            run_logger().info("%s: %s (%s)", outcome, removal.path, removal.reason)
        what = str(removal.path.relative_to(layout.root))
        entries.append(Pruned(what=what, kind=removal.kind, bytes=size, why=removal.reason, outcome=outcome))
    return Pruning(store=str(layout.root), dry_run=dry_run, entries=tuple(entries))


@task(task_run_name="report-prune-store", **LOCAL_WORK)
async def report_pruning(result: Pruning) -> None:
    """Show what went, or would go, as a table."""
    rows = [(entry.what, entry.kind, f"{entry.bytes:,}", entry.why, entry.outcome) for entry in result.entries]
    advice = "Nothing was removed; run it with dry_run off.\n\n" if result.dry_run else ""
    await acreate_markdown_artifact(
        key="pruned-store",
        markdown=f"## {result.heading}\n\n{advice}{table(list(Pruned.model_fields), rows, right=['bytes'])}\n",
        description="What retention removes from the store, and why.",
    )
