"""What a download shows in the UI: a row per source and per shard."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from prefect import task
from prefect.artifacts import acreate_table_artifact

from tasks.policies import LOCAL_WORK
from tasks.sources.results import DownloadResult, ShardOutcome

MOST_ROWS = 1000
"""Most rows of a table artifact, which is stored and sent as a whole."""


def rows_of(names: str, values: Iterable[Sequence[str | int | float]]) -> list[dict[str, str | int | float]]:
    """Make the rows of a table, whose columns are named by words."""
    return [dict(zip(names.split(), row, strict=True)) for row in values]


def rows_of_files(result: DownloadResult) -> list[dict[str, str | int | float]]:
    """Make a row of each kind of file that was read, and of each reason for which others were not."""
    found: list[Sequence[str | int]] = []
    for source, files in ((outcome.source, outcome.files) for outcome in result.sources if outcome.files):
        for kind, (count, documents) in files.documents.items():
            found.append((source, f"read: {kind}", count, documents, "", ""))
        for row in files.rejected:
            found.append((source, f"rejected: {row.reason}", row.count, 0, ", ".join(row.first), row.detail))
    return rows_of("source what files documents first detail", found)


@task(task_run_name="report-shards", **LOCAL_WORK)
async def report_download(result: DownloadResult, shards: Mapping[str, Sequence[ShardOutcome]]) -> None:
    """Show the results of the download as table artifacts: one row per source, one per shard.

    Args:
        result: What became of every source.
        shards: The shards of every source that this run fetched or went on with.
    """
    outcomes = [(o.source, o.band, o.documents, o.rejects, o.problem or o.state) for o in result.sources]
    sources = rows_of("source authority documents rejected state", outcomes)
    await acreate_table_artifact(
        key="download-sources", table=sources, description="What every source gave in this download."
    )
    if files := rows_of_files(result):
        await acreate_table_artifact(
            key="download-files", table=files[:MOST_ROWS], description="What became of the files of your own folders."
        )
    fetched = [
        (source, shard.file, shard.documents, shard.describe_rejects(), round(shard.bytes / 1000, 1))
        for source, outcomes_of in shards.items()
        for shard in outcomes_of
    ]
    if fetched:
        shown = fetched[-MOST_ROWS:]  # the last ones are what a run that went on with an old download did
        which = f"The last {len(shown)} of {len(fetched)} shards" if len(shown) < len(fetched) else "Shards"
        await acreate_table_artifact(
            key="download-shards",
            table=rows_of("source shard documents rejected kilobytes", shown),
            description=f"{which} fetched or reused by this run.",
        )
