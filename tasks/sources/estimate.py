"""What a download would take, before it is begun: documents, bytes, hours."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.sources.catalogue import SourceSpec
from tasks.sources.chronicling_america import PAGE_SIZE, TEXT_PER_MINUTE
from tasks.sources.internet_archive import PUBLIC_REQUESTS_PER_SECOND
from tasks.sources.newspaper_batches import BATCHES_PER_MINUTE
from tasks.sources.source import Connection, Pace
from tasks.sources.web import courteous_rate

BYTES_PER_SECOND = 4e6
"""What a home connection and a busy archive allow together."""
TYPICAL_BYTES = {
    "internet_archive": 500_000,  # the text of a book
    "chronicling_america": 30_000,  # a newspaper page
    "hugging_face": 5_000,
    "local_files": 5_000,
}
PACKED_PAGE_BYTES = 30_000
"""A page in a bulk file, which holds the page's layout beside its text."""


@dataclass(frozen=True)
class Estimate:
    """What one source would take; rough, from typical sizes and the pace that its archive allows."""

    source: str
    offered: int | None
    documents: int
    bytes: int
    hours: float


def estimate(spec: SourceSpec, offered: int | None, limit: int, connection: Connection, pace: Pace) -> Estimate:
    """Estimate the download of at most `limit` documents.

    Args:
        spec: The catalogue entry.
        offered: How many items the archive says it has, if it does.
        limit: How many documents are wanted.
        connection: Where the archive is.
        pace: How fast it would be asked.
    """
    documents = limit if offered is None else min(limit, offered)
    size = documents * (PACKED_PAGE_BYTES if spec.bulk else TYPICAL_BYTES[spec.archive])
    hours = max(_asking_seconds(spec, documents, connection, pace), size / BYTES_PER_SECOND) / 3600
    return Estimate(spec.name, offered, documents, size, round(hours, 2))


def _asking_seconds(spec: SourceSpec, documents: int, connection: Connection, pace: Pace) -> float:
    wanted = pace.requests_per_second
    match spec.archive:
        case "internet_archive":
            root = connection.archive_org_url
            # The metadata and the text of every item.
            own = connection.archive_org_per_second
            rate = courteous_rate(wanted, spec.requests_per_second, PUBLIC_REQUESTS_PER_SECOND, root, own)
            return 2 * documents / rate
        case "chronicling_america" if spec.bulk:
            root = connection.loc_bulk_url
            files = -(-documents // spec.pages_per_batch)
            return files / courteous_rate(wanted, None, BATCHES_PER_MINUTE / 60, root)
        case "chronicling_america":
            ceiling = None if spec.text_per_minute is None else spec.text_per_minute / 60
            own = None if connection.loc_text_per_minute is None else connection.loc_text_per_minute / 60
            rate = courteous_rate(wanted, ceiling, TEXT_PER_MINUTE / 60, connection.loc_text_url, own)
            return documents * (1 + 1 / PAGE_SIZE) / rate
        case _:
            return 0.0  # rows come in files; their size is what counts
