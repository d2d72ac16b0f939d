"""Pruning as Prefect sees it: one task that removes what may go, one that shows what and why."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from prefect import task
from prefect.artifacts import acreate_markdown_artifact

from storage.errors import ParameterError
from storage.layout import Layout
from storage.retention import RetentionParameters, plan_removals, remove
from tasks.policies import LOCAL_WORK, run_logger


@task(task_run_name="prune-store", **LOCAL_WORK)
async def prune(layout: Layout, keep: RetentionParameters, *, dry_run: bool) -> list[dict[str, Any]]:
    """Find what may go and, unless this is a dry run, remove it; return one row per thing.

    Raises:
        ParameterError: The store is a bucket.
    """
    if layout.remote is not None:
        raise ParameterError(
            f"{layout.remote.uri} is a bucket: give it a lifecycle rule there; its mirror {layout.root} may be deleted "
            "as a whole while no run is at work, what is needed is fetched again"
        )
    rows = []
    for removal in await asyncio.to_thread(plan_removals, layout, keep):
        outcome = "would go"
        if not dry_run:
            gone = await asyncio.to_thread(remove, layout, removal, keep)
            outcome = "removed" if gone else "kept: in use, or needed by now"
            run_logger().info("%s: %s (%s)", outcome, removal.path, removal.reason)
        rows.append(
            {
                "what": str(removal.path.relative_to(layout.root)),
                "kind": removal.kind,
                "bytes": removal.bytes,
                "why": removal.reason,
                "outcome": outcome,
            }
        )
    return rows


@task(task_run_name="report-prune-store", **LOCAL_WORK)
async def report_pruning(rows: Sequence[dict[str, Any]], *, dry_run: bool) -> None:
    """Show what went, or would go, as a table."""
    total = sum(row["bytes"] for row in rows if not row["outcome"].startswith("kept"))
    verb = "would free" if dry_run else "freed"
    table = "\n".join(
        f"| `{row['what']}` | {row['kind']} | {row['bytes']:,} | {row['why']} | {row['outcome']} |" for row in rows
    )
    heading = f"## {len(rows)} entries, {verb} {total / 1e6:,.1f} MB\n\n"
    advice = "Nothing was removed; run it with dry_run off.\n\n" if dry_run else ""
    await acreate_markdown_artifact(
        key="pruned-store",
        markdown=f"{heading}{advice}| what | kind | bytes | why | outcome |\n|---|---|---:|---|---|\n{table}\n",
        description="What retention removes from the store, and why.",
    )
