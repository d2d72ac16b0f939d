"""From what `benchmarks.scale` measured to 10^7 and 10^9 documents: hours, disk, memory, requests, rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from tasks.sources.connection import ARCHIVE_ORG_PER_SECOND, TEXTS_PER_MINUTE

SIZES = (10**7, 10**9)
TEXT_KB = 6.0
"""Mean text of a document in kB, as in the corpus that the method was developed on (books are cut by then)."""
CORES = 8
"""Cores of a machine, each as fast as the one that was measured."""
WEEK_HOURS = 168.0
STAGES = ("download", "score", "rebalance", "train")
KEEPS = ("rebalance", "train")
"""Stages that keep something of every document in memory; the others work in batches of bounded size."""
ARCHIVES = {
    "internet_archive": ARCHIVE_ORG_PER_SECOND / 2,  # metadata and text of every book
    "chronicling_america": TEXTS_PER_MINUTE / 60,
}
"""Documents a second at the pace that this project asks the public archives with; rows of the Hub come by the file."""
MIXTURE_SAMPLES = 100_000
"""The mixture that the method asks for; training, evaluation and export see no more of the corpus than this."""


def project(lines: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Project every stage, given the lines of the measurement.

    A document costs what one of the sandbox's length costs, and for every further kB what the longer documents cost
    more. Training is counted on the mixture, whose size the corpus does not change.
    """
    measured = {(line["benchmark"], line["times"], line["longer"]): line for line in lines if "times" in line}
    for size in SIZES:
        for stage in STAGES:
            cost = costs(stage, measured)
            documents = MIXTURE_SAMPLES if stage == "train" else size
            longer = TEXT_KB - cost["text_kb"]
            hours = documents * (cost["seconds"] + cost["seconds_per_kb"] * longer) / 3600
            disk = 0.0 if stage == "train" else documents * (cost["disk_bytes"] + cost["disk_bytes_per_kb"] * longer)
            yield {
                "benchmark": f"scale.projection.{stage}",
                "documents": size,
                "processor_hours": round(hours, 1),
                "machines_for_a_week": round(hours / CORES / WEEK_HOURS, 2),
                "disk_gb": round(disk / 1e9, 1),
                "memory_gb": round(documents * cost["memory_bytes"] / 1e9 if stage in KEEPS else cost["peak_gb"], 1),
                "database_rows": round(documents * cost["database_rows"]),
                "database_gb": round(documents * cost["database_bytes"] / 1e9, 2),
            }
        yield {
            "benchmark": "scale.projection.archives",
            "documents": size,
            **{f"days_at_{name}": round(size / rate / 86_400, 1) for name, rate in ARCHIVES.items()},
        }


def costs(stage: str, measured: dict[tuple[str, int, int], dict[str, Any]]) -> dict[str, float]:
    """Marginal cost of one more document, and of one more kB of its text."""
    small, large = (measured[f"scale.{stage}", times, 1] for times in (10, 100))
    longer = measured[f"scale.{stage}", 10, 8]

    def a_document(field: str) -> float:
        return max(0.0, float((large[field] - small[field]) / (large["documents"] - small["documents"])))

    more_kb = longer["text_kb"] - small["text_kb"]

    def a_kb(field: str) -> float:
        return max(0.0, float((longer[field] - small[field]) / small["documents"] / more_kb))

    return {
        "text_kb": small["text_kb"],
        "seconds": a_document("processor_seconds"),
        "seconds_per_kb": a_kb("processor_seconds"),
        "disk_bytes": 1e6 * a_document("disk_mb"),
        "disk_bytes_per_kb": 1e6 * a_kb("disk_mb"),
        "memory_bytes": 1e6 * a_document("peak_mb"),
        "peak_gb": large["peak_mb"] / 1e3,
        "database_rows": a_document("database_rows"),
        "database_bytes": 1e6 * a_document("database_mb"),
    }
