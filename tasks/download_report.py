"""What a download shows in the UI: a row per source and per shard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prefect import task
from prefect.artifacts import acreate_table_artifact

from tasks.policies import LOCAL_WORK
from tasks.sources.results import DownloadResult, FileTable, ShardOutcome

MOST_ROWS = 1000
"""Most rows of a table artifact, which is stored and sent as a whole."""


def file_rows(source: str, files: FileTable) -> list[dict[str, str | int]]:
    """Make a row of each kind of file that was read, and of each reason for which others were not."""
    read: list[dict[str, str | int]] = [
        {"source": source, "what": f"read: {kind}", "files": count, "documents": documents, "first": "", "detail": ""}
        for kind, (count, documents) in files.documents.items()
    ]
    rejected: list[dict[str, str | int]] = [
        {
            "source": source,
            "what": f"rejected: {row.reason}",
            "files": row.count,
            "documents": 0,
            "first": ", ".join(row.first),
            "detail": row.detail,
        }
        for row in files.rejected
    ]
    return read + rejected


@task(task_run_name="report-shards", **LOCAL_WORK)
async def report_download(result: DownloadResult, shards: Mapping[str, Sequence[ShardOutcome]]) -> None:
    """Show the results of the download as table artifacts: one row per source, one per shard.

    Args:
        result: What became of every source.
        shards: The shards of every source that this run fetched or went on with.
    """
    sources = [
        {
            "source": outcome.source,
            "authority": outcome.band,
            "documents": outcome.documents,
            "rejected": outcome.rejects,
            "state": outcome.problem or outcome.state,
        }
        for outcome in result.sources
    ]
    await acreate_table_artifact(
        key="download-sources", table=sources, description="What every source gave in this download."
    )
    files = [row for outcome in result.sources if outcome.files for row in file_rows(outcome.source, outcome.files)]
    if files:
        await acreate_table_artifact(
            key="download-files", table=files[:MOST_ROWS], description="What became of the files of your own folders."
        )
    rows = [
        {
            "source": source,
            "shard": outcome.file,
            "documents": outcome.documents,
            "rejected": outcome.describe_rejects(),
            "kilobytes": round(outcome.bytes / 1000, 1),
        }
        for source, outcomes in shards.items()
        for outcome in outcomes
    ]
    if rows:
        shown = rows[-MOST_ROWS:]  # the last ones are what a run that went on with an old download did
        which = f"The last {len(shown)} of {len(rows)} shards" if len(shown) < len(rows) else "Shards"
        await acreate_table_artifact(
            key="download-shards", table=shown, description=f"{which} fetched or reused by this run."
        )
