"""Scoring v1 over tables: the formulas of `tasks.signals.reference` as polars expressions.

Everything is computed in float64 and equals the reference; only the two output columns are float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import polars as pl
import pyarrow as pa

from storage.errors import ParameterError
from storage.parquet import read_shard, write_shard
from storage.schemas import (
    COMPONENTS,
    RAW_SCHEMA,
    SCORED_SCHEMA,
    SCORING_VERSION,
)
from tasks.signals.formulas import apply_formulas
from tasks.signals.scan import TIER_COLUMNS, TYPE_COLUMNS, clean_texts, scan_texts
from tasks.signals.trivium import checked_trivium
from tasks.signals.years import RUN_YEAR

INPUT_COLUMNS = ("id", "text", "source_type", "year", "year_evidence")
BLOCK_ROWS = 4096
"""Rows scored at a time, which bounds the memory of the matches."""


def score_shard(
    raw: Path, scored: Path, trivium: str | None, run_year: int = RUN_YEAR, tags: Mapping[str, str] | None = None
) -> pa.Table:
    """Score one raw shard into a scored shard of the same name and row order.

    Args:
        raw: The raw shard.
        scored: Where the scored shard goes.
        trivium: The category from the source's catalogue entry; none: the default of each source type.
        run_year: The year taken for "now".
        tags: Key-value metadata for the scored shard's footer.

    Returns:
        The scored rows.

    Raises:
        ParameterError: The two file names differ, or a parameter is wrong.
        StoreError: The raw shard cannot be read.
    """
    if raw.name != scored.name:
        raise ParameterError(f"the scores of {raw.name} must go to a file of the same name, not to {scored.name}")
    table = score_table(read_shard(raw, RAW_SCHEMA, list(INPUT_COLUMNS)), run_year=run_year, trivium=trivium)
    write_shard(scored, table, SCORED_SCHEMA, tags)
    return table


def score_table(table: pa.Table, *, run_year: int = RUN_YEAR, trivium: str | None = None) -> pa.Table:
    """Score every row of a raw table.

    Args:
        table: Needs the columns ``id``, ``text`` and ``source_type``; ``year`` (integers) and
            ``year_evidence`` are used where there are any; others are ignored.
        run_year: The year taken for "now".
        trivium: The category of all rows; none: the default of each row's source type.

    Returns:
        A table of `SCORED_SCHEMA`, in the order of the input.

    Raises:
        ParameterError: A column is missing, holds nulls or has the wrong type, or `trivium` is no category.
    """
    category = checked_trivium(trivium)
    rows = _checked_input(table)
    blocks = [_score_block(block, run_year, category) for block in rows.iter_slices(BLOCK_ROWS)]
    return pa.concat_tables(blocks) if blocks else SCORED_SCHEMA.empty_table()


def _checked_input(table: pa.Table) -> pl.DataFrame:
    missing = [name for name in ("id", "text", "source_type") if name not in table.column_names]
    if missing:
        raise ParameterError(f"the table to score lacks the columns {missing}; it holds {table.column_names}")
    for name in ("id", "text"):
        if nulls := table.column(name).null_count:
            raise ParameterError(f"column {name!r} of the table to score holds {nulls} nulls; drop those rows first")
    absent = pa.nulls(table.num_rows)
    columns = {name: table.column(name) if name in table.column_names else absent for name in INPUT_COLUMNS}
    year = columns["year"]
    if not (pa.types.is_integer(year.type) or pa.types.is_null(year.type)):
        raise ParameterError(f"column 'year' of the table to score is {year.type}; it must hold integers or nulls")
    columns["year"] = year.cast(pa.int64())
    for name in ("id", "text", "source_type", "year_evidence"):
        columns[name] = columns[name].cast(pa.large_string())
    frame = pl.from_arrow(pa.table(columns))
    assert isinstance(frame, pl.DataFrame)
    return frame


def _score_block(rows: pl.DataFrame, run_year: int, trivium: str | None) -> pa.Table:
    counts = scan_texts(clean_texts(rows["text"]), run_year)
    frame = pl.concat([rows.drop("text"), counts], how="horizontal")
    return _to_arrow(apply_formulas(frame, run_year), trivium)


def _to_arrow(frame: pl.DataFrame, trivium: str | None) -> pa.Table:
    """Lay the columns out in `SCORED_SCHEMA`."""
    column_of = {"n_citations": "citations", "n_consensus": "consensus", "n_primary": "primary"}
    column_of |= {"consensus": "consensus_term", "primary": "primary_term"}

    def array(column: str, kind: pa.DataType) -> pa.Array:
        return frame[column].rechunk().to_arrow().cast(kind)

    def structure(columns: Iterable[str], kind: pa.StructType) -> pa.Array:
        fields = list(kind)
        return pa.StructArray.from_arrays(
            [array(column, field.type) for column, field in zip(columns, fields, strict=True)], fields=fields
        )

    parts = []
    for field in COMPONENTS:
        if field.name == "tiers":
            parts.append(structure(TIER_COLUMNS, field.type))
        elif field.name == "types":
            parts.append(structure(TYPE_COLUMNS, field.type))
        else:
            parts.append(array(column_of.get(field.name, field.name), field.type))
    count = len(frame)
    categories = array("default_trivium", pa.string()) if trivium is None else pa.array([trivium] * count)
    columns = [
        *(array(name, SCORED_SCHEMA.field(name).type) for name in ("id", "auth_weight", "prov_entropy")),
        categories,
        array("band", pa.string()),
        pa.array([SCORING_VERSION] * count),
        pa.StructArray.from_arrays(parts, fields=list(COMPONENTS)),
    ]
    return pa.Table.from_arrays(columns, schema=SCORED_SCHEMA)
