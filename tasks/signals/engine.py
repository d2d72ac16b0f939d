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
    BANDS,
    COMPONENTS,
    EVIDENCE_TYPES,
    HIGH_ABOVE,
    LOW_BELOW,
    RAW_SCHEMA,
    SCORED_SCHEMA,
    SCORING_VERSION,
)
from tasks.signals import authority, provenance
from tasks.signals.priors import PRIORS
from tasks.signals.scan import TIER_COLUMNS, TYPE_COLUMNS, clean_texts, scan_texts
from tasks.signals.trivium import TRIVIUM_OF, checked_trivium
from tasks.signals.years import FIRST_YEAR, MODERN_UNDATED, RUN_YEAR

INPUT_COLUMNS = ("id", "text", "source_type", "year", "year_evidence")
BLOCK_ROWS = 4096
"""Rows scored at a time, which bounds the memory of the matches."""

_WEIGHT_COLUMNS = {kind: f"weight_{kind}" for kind in EVIDENCE_TYPES}
_PRIORS = pl.DataFrame(
    [
        {
            "source_type": name,
            "prior_authority": prior.authority,
            "prior_bits": prior.bits,
            "first_year": prior.first_year,
            "last_year": prior.last_year,
            "if_newer": prior.if_newer,
            "default_trivium": TRIVIUM_OF[name],
        }
        for name, prior in PRIORS.items()
    ],
    schema_overrides={"first_year": pl.Int64, "last_year": pl.Int64, "if_newer": pl.String},
)


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
    frame = _resolve_source(frame, run_year)
    frame = _weigh(frame)
    return _to_arrow(_blend(frame), trivium)


def _resolve_source(frame: pl.DataFrame, run_year: int) -> pl.DataFrame:
    """Find each row's year, fit it into its source type, and take the newer type where the two conflict."""
    declared = pl.when(pl.col("year").is_between(FIRST_YEAR, run_year)).then("year")
    evidence = (
        pl.when(declared.is_not_null())
        .then(pl.when(pl.col("year_evidence") == "text").then(pl.lit("text")).otherwise(pl.lit("metadata")))
        .when(pl.col("text_year").is_not_null())
        .then(pl.lit("text"))
        .otherwise(pl.lit("none"))
    )
    found = pl.coalesce(declared, "text_year")
    undated = pl.coalesce("last_year", pl.when(pl.col("first_year").is_not_null()).then(MODERN_UNDATED))
    fitted = pl.when(found.is_null()).then(undated).otherwise(pl.max_horizontal(found, "first_year"))
    known = pl.col("source_type").is_in(list(PRIORS))
    frame = (
        frame.with_columns(pl.when(known).then("source_type").otherwise(pl.lit("unknown")).alias("source_type"))
        .join(_PRIORS, on="source_type", how="left", maintain_order="left")
        .with_columns(fitted.alias("year"), evidence.alias("year_evidence"))
        .with_columns((pl.col("year") > pl.col("last_year")).fill_null(False).alias("conflict"))
    )
    newer = _PRIORS.select(
        pl.col("source_type").alias("if_newer"),
        pl.col("prior_authority").alias("newer_authority"),
        pl.col("prior_bits").alias("newer_bits"),
    )
    conflict = pl.col("conflict")
    return frame.join(newer, on="if_newer", how="left", maintain_order="left").with_columns(
        pl.when(conflict).then("if_newer").otherwise("source_type").alias("source_type"),
        pl.when(conflict).then("newer_authority").otherwise("prior_authority").alias("prior_authority"),
        pl.when(conflict).then("newer_bits").otherwise("prior_bits").alias("prior_bits"),
    )


def _saturation(count: str, half: float) -> pl.Expr:
    rate = pl.col(count) / pl.col("units")
    return rate / (rate + half)


def _entropy_bits(columns: Iterable[str]) -> pl.Expr:
    columns = list(columns)
    total = pl.sum_horizontal(columns)
    shares = [pl.col(column) / total for column in columns]
    terms = [pl.when(share > 0).then(share * share.log(2)).otherwise(0.0) for share in shares]
    return pl.max_horizontal(-pl.sum_horizontal(terms), 0.0)


def _weigh(frame: pl.DataFrame) -> pl.DataFrame:
    """Add the terms of the formulas, column by column as `reference.Components` names them."""
    modern = (
        ((pl.col("year") - authority.OLD_YEAR) / authority.YEARS_TO_MODERN)
        .clip(0.0, 1.0)
        .fill_null(authority.MODERN_SHARE_UNDATED)
    )
    units = pl.max_horizontal(1.0, pl.col("characters") / authority.UNIT_CHARACTERS)
    frame = frame.with_columns(
        (authority.AGE_AUTHORITY[0] + authority.AGE_AUTHORITY[1] * modern).alias("age_auth"),
        (provenance.AGE_BITS[0] + provenance.AGE_BITS[1] * modern).alias("age_bits"),
        (authority.GATE[0] + authority.GATE[1] * modern).alias("gate"),
        units.alias("units"),
        *(pl.col(f"type_{kind}").sqrt().alias(column) for kind, column in _WEIGHT_COLUMNS.items()),
    )
    citations = (1 + pl.col("citations") / pl.col("units")).log10() / pl.lit(
        1.0 + authority.CITATIONS_FOR_MAXIMUM
    ).log10()
    tiers = [
        weight * _saturation(f"tier_{tier}", authority.INSTITUTION_HALF)
        for tier, weight in authority.TIER_WEIGHTS.items()
    ]
    uneditable = [_WEIGHT_COLUMNS[kind] for kind in provenance.UNEDITABLE]
    in_print = [_WEIGHT_COLUMNS[kind] for kind in provenance.UNEDITABLE_IN_PRINT]
    old = (pl.col("year") < authority.OLD_YEAR).fill_null(False)
    total = pl.sum_horizontal(_WEIGHT_COLUMNS.values())
    uneditable_weight = pl.when(old).then(pl.sum_horizontal(in_print)).otherwise(pl.sum_horizontal(uneditable))
    return frame.with_columns(
        (authority.CITATION_MAXIMUM * citations.clip(0.0, 1.0)).alias("citation"),
        pl.min_horizontal(authority.INSTITUTION_MAXIMUM, pl.sum_horizontal(tiers)).alias("institution"),
        (authority.CONSENSUS_MAXIMUM * _saturation("consensus", authority.CONSENSUS_HALF)).alias("consensus_term"),
        _saturation("primary", authority.PRIMARY_HALF).alias("primary_term"),
        pl.when(total > 0).then(uneditable_weight / total).otherwise(0.0).alias("primary_share"),
        _entropy_bits(_WEIGHT_COLUMNS.values()).alias("types_bits"),
        pl.when(old).then(_entropy_bits(in_print)).otherwise(_entropy_bits(uneditable)).alias("primary_bits"),
    )


def _blend(frame: pl.DataFrame) -> pl.DataFrame:
    """Add the text's own scores, their weight, and the final scores with their band."""
    gate, institution, consensus = pl.col("gate"), pl.col("institution"), pl.col("consensus_term")
    primary = pl.col("primary_term")
    text_authority = (
        pl.col("age_auth") + gate * (pl.col("citation") + institution + consensus) - authority.PRIMARY_RELIEF * primary
    )
    penalties = gate * (
        provenance.INSTITUTION_PENALTY_BITS * institution / authority.INSTITUTION_MAXIMUM
        + provenance.CONSENSUS_PENALTY_BITS * consensus / authority.CONSENSUS_MAXIMUM
    )
    mix = pl.col("primary_share") * pl.col("primary_bits")
    bits = pl.col("age_bits") + mix + provenance.PRIMARY_BONUS_BITS * primary - penalties
    evidence = (pl.col("marks") + pl.col("citations")).cast(pl.Float64)
    most = pl.when(pl.col("source_type") == "unknown").then(1.0).otherwise(provenance.TEXT_SHARE)
    weight, stored = pl.col("weight_text"), pl.col("auth_weight")
    low, medium, high = (pl.lit(band) for band in BANDS)
    return (
        frame.with_columns(
            text_authority.clip(0.0, authority.AUTHORITY_MAXIMUM).alias("text_auth"),
            bits.clip(0.0, provenance.BITS_MAXIMUM).alias("text_bits"),
            (most * evidence / (evidence + provenance.EVIDENCE_HALF)).alias("weight_text"),
        )
        .with_columns(
            ((1 - weight) * pl.col("prior_authority") + weight * pl.col("text_auth"))
            .clip(0.0, authority.AUTHORITY_MAXIMUM)
            .cast(pl.Float32)
            .alias("auth_weight"),
            ((1 - weight) * pl.col("prior_bits") + weight * pl.col("text_bits"))
            .clip(0.0, provenance.BITS_MAXIMUM)
            .cast(pl.Float32)
            .alias("prov_entropy"),
        )
        .with_columns(
            # Compared as float64, as `band_of` does with the number that a reader takes from the column.
            pl.when(stored.cast(pl.Float64) < LOW_BELOW)
            .then(low)
            .when(stored.cast(pl.Float64) > HIGH_ABOVE)
            .then(high)
            .otherwise(medium)
            .alias("band")
        )
    )


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
