"""What a download shows in the end: a row per source and per shard, and whether later stages have what they need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefect import task
from prefect.artifacts import acreate_table_artifact

from storage.errors import SourceUnavailable
from storage.vocabulary import BANDS
from tasks.policies import LOCAL_WORK
from tasks.sources.outcome import ShardOutcome, SourceOutcome

MOST_ROWS = 1000
"""Rows of a table artifact: it is stored and sent as a whole, and nobody reads more."""


def require_every_band(outcomes: Sequence[SourceOutcome]) -> None:
    """Go on while every authority band that was asked for keeps a source.

    Raises:
        SourceUnavailable: A band lost all its sources; the message says which and why.
    """
    lost = []
    for band in BANDS:
        asked = [outcome for outcome in outcomes if outcome.band == band]
        if asked and not any(outcome.usable for outcome in asked):
            reasons = "; ".join(f"{outcome.source}: {outcome.problem or 'no documents'}" for outcome in asked)
            lost.append(f"{band} authority ({reasons})")
    if lost:
        raise SourceUnavailable(
            f"no source is left for {' and '.join(lost)}; run again when it answers, or name other sources"
        )


def shard_row(source: str, outcome: ShardOutcome) -> dict[str, Any]:
    """Describe a shard as a row of a table artifact, whose cells show plain values only."""
    return {
        "source": source,
        "shard": outcome.file,
        "documents": outcome.documents,
        "rejected": outcome.describe_rejects(),
        "kilobytes": round(outcome.bytes / 1000, 1),
    }


@task(task_run_name="report-shards", **LOCAL_WORK)
async def report_shards(outcomes: Sequence[SourceOutcome], shards: Sequence[dict[str, Any]]) -> None:
    """Show the results of the download as table artifacts: one row per source, one per shard."""
    await acreate_table_artifact(
        key="download-sources",
        table=[
            {
                "source": outcome.source,
                "authority": outcome.band,
                "documents": outcome.documents,
                "rejected": outcome.rejects,
                "state": outcome.problem or ("already complete" if outcome.reused else "fetched"),
            }
            for outcome in outcomes
        ],
        description="What every source gave in this download.",
    )
    if shards:
        # The last ones are what a run that took up an old download did.
        shown = list(shards[-MOST_ROWS:])
        which = f"The last {len(shown)} of {len(shards)} shards" if len(shown) < len(shards) else "Shards"
        await acreate_table_artifact(
            key="download-shards", table=shown, description=f"{which} fetched or taken up by this run."
        )
