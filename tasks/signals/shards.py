"""Scores shard after shard, Parquet to Parquet, with bounded memory on all cores."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from storage.errors import ParameterError, StoreError
from storage.parquet import open_shard
from storage.schemas import RAW_SCHEMA, SCORED_SCHEMA, SCORING_VERSION, ScoringVersion
from tasks.signals.custom import CustomSignal
from tasks.signals.engine import INPUT_COLUMNS, clean_table, score_table
from tasks.signals.years import RUN_YEAR

BATCH_BYTES = 16 << 20
"""Text scored at a time: bounds the memory.

Every batch builds its regex automata anew, which takes as long as 2 MB of text: half the size costs 10 % of the speed.
"""
BATCH_ROWS = 8192
READ_BUFFER_BYTES = 1 << 20
MOST_WORKERS = 2
"""Batches of a shard scored at once, at most: more cost memory, and polars shares out each batch's work as well."""


def score_shard(
    raw: Path,
    scored: Path,
    trivium: str | None,
    run_year: int = RUN_YEAR,
    tags: Mapping[str, str] | None = None,
    signal: CustomSignal | None = None,
    scoring: ScoringVersion = SCORING_VERSION,
    outlets: NDArray[np.int64] | None = None,
) -> None:
    """Score one raw shard into a scored shard of the same name and row order.

    Args:
        raw: The raw shard.
        scored: Where the scored shard goes.
        trivium: The category from the source's catalogue entry; none: the default of each source type.
        run_year: The year taken for "now".
        tags: Key-value metadata for the scored shard's footer.
        signal: A signal of the user's own.
        scoring: The version.
        outlets: (documents, 2) rows of the shard and in how many outlets their words stand, where it is more than one;
            none: that was not counted.

    Raises:
        ParameterError: The two file names differ, a parameter is wrong, or the signal breaks its contract.
        StoreError: The raw shard cannot be read, or the disk is full.
    """
    if raw.name != scored.name:
        raise ParameterError(f"the scores of {raw.name} must go to a file of the same name, not to {scored.name}")

    def score(documents: pa.Table) -> pa.Table:
        if signal is None:
            return score_table(documents, run_year=run_year, trivium=trivium, scoring=scoring)
        documents = clean_table(documents)  # cleaning is idempotent: the engine finds nothing left to do
        scores = score_table(documents, run_year=run_year, trivium=trivium, scoring=scoring)
        return signal.apply(documents.select(columns), scores)

    columns = list(INPUT_COLUMNS) if signal is None else RAW_SCHEMA.names
    batches = read_batches(raw, columns) if outlets is None else _with_outlets(read_batches(raw, columns), outlets)
    workers = min(MOST_WORKERS, max(1, pl.thread_pool_size() // 2))  # a flow has two shards in work
    with open_shard(scored, SCORED_SCHEMA) as writer:
        for table in map_in_order(score, batches, workers):
            for batch in table.combine_chunks().to_batches():
                writer.write_batch(batch)
        writer.tag(tags or {})


def _with_outlets(batches: Iterable[pa.Table], outlets: NDArray[np.int64]) -> Iterator[pa.Table]:
    """Add the column ``n_outlets`` to the tables of a shard."""
    start = 0
    for table in batches:
        counts = np.ones(table.num_rows, np.int64)
        here = outlets[(outlets[:, 0] >= start) & (outlets[:, 0] < start + table.num_rows)]
        counts[here[:, 0] - start] = here[:, 1]
        start += table.num_rows
        yield table.append_column("n_outlets", pa.array(counts))


def read_batches(path: Path, columns: list[str]) -> Iterator[pa.Table]:
    """Read a raw shard in tables of about `BATCH_BYTES` of text, or a single longer document.

    Raises:
        StoreError: The file is not a whole Parquet file or lacks a column.
    """
    waiting: list[pa.RecordBatch] = []
    held = 0
    for batch in _read_pieces(path, columns):
        size = _text_bytes(batch)
        if waiting and (held + size > BATCH_BYTES or sum(map(len, waiting)) >= BATCH_ROWS):
            yield pa.Table.from_batches(waiting)
            waiting, held = [], 0
        waiting.append(batch)
        held += size
    if waiting:
        yield pa.Table.from_batches(waiting)


def _read_pieces(path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Read record batches of at most `BATCH_BYTES` of text each, or one document."""
    try:
        with pq.ParquetFile(path, buffer_size=READ_BUFFER_BYTES) as file:
            if missing := set(columns) - set(file.schema_arrow.names):
                raise StoreError(f"{path} lacks the columns {sorted(missing)}; delete it and run the stage again")
            text_column = file.schema_arrow.get_field_index("text")
            for group in range(file.num_row_groups):
                described = file.metadata.row_group(group)
                mean_bytes = described.column(text_column).total_uncompressed_size / max(1, described.num_rows)
                rows = max(1, min(described.num_rows, int(BATCH_BYTES / 4 / max(1.0, mean_bytes))))
                for batch in file.iter_batches(rows, row_groups=[group], columns=columns):
                    yield from _split(batch)
    except (pa.ArrowInvalid, OSError) as error:
        raise StoreError(f"{path} cannot be read as a shard ({error}); delete it and run the stage again") from error


def _split(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    lengths = pc.binary_length(batch.column("text")).fill_null(0).to_numpy(zero_copy_only=False)
    ends = np.cumsum(lengths)
    start = 0
    while start < len(batch):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + BATCH_BYTES, side="right")))
        yield batch.slice(start, stop - start)
        start = stop


def _text_bytes(batch: pa.RecordBatch) -> int:
    return int(pc.sum(pc.binary_length(batch.column("text"))).as_py() or 0)


def map_in_order(work: Callable[[pa.Table], pa.Table], batches: Iterable[pa.Table], workers: int) -> Iterator[pa.Table]:
    """Work on several batches at once, with a bounded number of them in memory; results come in their order."""
    running: deque[Future[pa.Table]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for batch in batches:
            running.append(pool.submit(work, batch))
            if len(running) > workers:  # one more is ready while a result is written
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
