"""Scoring over tables: v2 reads the marks of the texts' sentences, v1 counts phrases; numpy computes the formulas.

Everything is computed in float64 and equals the reference; only the two output columns are float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from storage.errors import ParameterError
from storage.schemas import COMPONENTS, EVIDENCE_TYPES, SCORED_SCHEMA, SCORING_VERSION, TIERS, ScoringVersion
from storage.vocabulary import BANDS
from tasks.signals.cleaning import clean_texts
from tasks.signals.formulas import (
    EVIDENCE_NAMES,
    PRIOR_AUTHORITY,
    PRIOR_BITS,
    TYPE_NAMES,
    UNKNOWN,
    Dating,
    Floats,
    Indices,
    apply_formulas,
    band_indices,
    date_documents,
    doubted_labels,
)
from tasks.signals.marks import read_blocks
from tasks.signals.overlay import lay_given_over
from tasks.signals.scan import Counts, scan_texts, scan_years
from tasks.signals.tokens import plain_texts, tokenise
from tasks.signals.trivium import TRIVIUM_OF, checked_trivium
from tasks.signals.votes import Reading, final_scores, read_votes
from tasks.signals.years import FIRST_YEAR, RUN_YEAR

INPUT_COLUMNS = ("id", "text", "source_type", "year", "year_evidence", "extra")
READ_BYTES = 400_000
BLOCK_ROWS = 4096
"""Rows scored at a time, which bounds the memory of the matches."""


def score_table(
    table: pa.Table, *, run_year: int = RUN_YEAR, trivium: str | None = None, scoring: ScoringVersion = SCORING_VERSION
) -> pa.Table:
    """Score every row of a raw table.

    Args:
        table: Needs the columns ``id``, ``text`` and ``source_type``; ``year`` (integers), ``year_evidence`` and
            ``n_outlets`` are used where there are any, and so are valid scores in the JSON objects of ``extra``;
            other columns are ignored.
        run_year: The year taken for "now".
        trivium: The category of all rows; none: the default of each row's source type.
        scoring: The version.

    Returns:
        A table of `SCORED_SCHEMA`, in the order of the input.

    Raises:
        ParameterError: A column is missing, holds nulls or has the wrong type, or `trivium` is no category.
    """
    category = checked_trivium(trivium)
    _check(table)
    blocks = [
        _score_block(table.slice(start, BLOCK_ROWS), run_year, category, scoring)
        for start in range(0, table.num_rows, BLOCK_ROWS)
    ]
    if not blocks:
        return SCORED_SCHEMA.empty_table()
    scored = pa.concat_tables(blocks)
    return lay_given_over(scored, table.column("extra")) if "extra" in table.column_names else scored


def clean_table(table: pa.Table) -> pa.Table:
    """Return a raw table with its texts as they are scored and trained on."""
    cleaned = clean_texts(_texts(table)).to_arrow().cast(pa.large_string())
    return table.set_column(table.schema.get_field_index("text"), "text", cleaned)


def _check(table: pa.Table) -> None:
    missing = [name for name in ("id", "text", "source_type") if name not in table.column_names]
    if missing:
        raise ParameterError(f"the table to score lacks the columns {missing}; it holds {table.column_names}")
    for name in ("id", "text"):
        if nulls := table.column(name).null_count:
            raise ParameterError(f"column {name!r} of the table to score holds {nulls} nulls; drop those rows first")
    if "year" in table.column_names:
        kind = table.column("year").type
        if not (pa.types.is_integer(kind) or pa.types.is_null(kind)):
            raise ParameterError(f"column 'year' of the table to score is {kind}; it must hold integers or nulls")


def _texts(table: pa.Table) -> pl.Series:
    return pl.Series(pl.from_arrow(table.column("text").cast(pa.large_string())))


def _score_block(block: pa.Table, run_year: int, trivium: str | None, scoring: ScoringVersion) -> pa.Table:
    declared = _source_types(block)
    texts = clean_texts(_texts(block))
    terms, dating = (_score_v1 if scoring == "v1" else _score_v2)(block, texts, declared, run_year)
    rows = block.num_rows
    auth_weight = terms["auth_weight"].astype(np.float32)
    categories = _names([TRIVIUM_OF[name] for name in TYPE_NAMES], declared)
    columns = [
        block.column("id").combine_chunks().cast(pa.string()),
        pa.array(auth_weight),
        pa.array(terms["prov_entropy"].astype(np.float32)),
        categories if trivium is None else _repeat(trivium, rows),
        _names(BANDS, band_indices(auth_weight)),
        _repeat(scoring, rows),
        _components(terms, dating, rows),
    ]
    return pa.Table.from_arrays(columns, schema=SCORED_SCHEMA)


Terms = dict[str, NDArray[Any] | pa.Array]


def _score_v1(block: pa.Table, texts: pl.Series, declared: Indices, run_year: int) -> tuple[Terms, Dating]:
    counts = scan_texts(texts, run_year)
    dating = date_documents(declared, _years(block), _years_from_text(block), counts.text_year, run_year)
    return apply_formulas(dating, counts) | _counts(counts), dating


def _score_v2(block: pa.Table, texts: pl.Series, declared: Indices, run_year: int) -> tuple[Terms, Dating]:
    years = _years(block)
    undated = np.flatnonzero(~((years >= FIRST_YEAR) & (years <= run_year)))
    mentioned = np.full(len(years), np.nan)
    mentioned[undated] = scan_years(texts.gather(undated), run_year)
    dating = date_documents(declared, years, _years_from_text(block), mentioned, run_year, "v2")
    kind = dating.source_type
    outlets = np.asarray(block.column("n_outlets"), np.int64) if "n_outlets" in block.column_names else None
    label = doubted_labels(declared, dating)
    return final_scores(_read(texts), PRIOR_AUTHORITY[kind], PRIOR_BITS[kind], kind == UNKNOWN, label, outlets), dating


def _read(texts: pl.Series) -> Reading:
    """Read the votes of texts, about `READ_BYTES` at a time: the arrays of a piece stay in the processor's cache."""
    plain = plain_texts(texts)
    ends = np.cumsum(plain.str.len_bytes().to_numpy())
    parts: list[pl.Series] = []
    start = 0
    while start < len(plain):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + READ_BYTES, side="right")))
        parts.append(plain[start:stop])
        start = stop
    with ThreadPoolExecutor(pl.thread_pool_size()) as pool:
        readings = list(pool.map(lambda part: read_votes(read_blocks(tokenise(part), len(part))), parts))
    return Reading(*(np.concatenate([getattr(part, name) for part in readings]) for name in Reading.__annotations__))


def _column(block: pa.Table, name: str, kind: pa.DataType) -> pa.Array:
    if name not in block.column_names:
        return pa.nulls(block.num_rows, kind)
    return block.column(name).cast(kind).combine_chunks()


def _source_types(block: pa.Table) -> Indices:
    """Return the declared types into `TYPE_NAMES`; what is no type counts as unknown."""
    found = pc.index_in(_column(block, "source_type", pa.string()), value_set=pa.array(TYPE_NAMES))
    return np.asarray(found.fill_null(UNKNOWN), dtype=np.int64)


def _years(block: pa.Table) -> Floats:
    return np.asarray(_column(block, "year", pa.int64()).cast(pa.float64(), safe=False).fill_null(np.nan))


def _years_from_text(block: pa.Table) -> NDArray[np.bool_]:
    evidence = _column(block, "year_evidence", pa.string())
    return np.asarray(pc.equal(evidence, "text").fill_null(False), dtype=np.bool_)


def _names(names: Sequence[str], indices: Indices) -> pa.Array:
    return pa.array(names, pa.string()).take(pa.array(indices))


def _repeat(name: str, rows: int) -> pa.Array:
    return pa.repeat(pa.scalar(name, pa.string()), rows)


def _counted(names: Sequence[str], table: Indices) -> pa.Array:
    columns = [pa.array(np.ascontiguousarray(column, dtype=np.int32)) for column in table.T]
    return pa.StructArray.from_arrays(columns, names=list(names))


def _counts(counts: Counts) -> Terms:
    return {
        "n_citations": counts.citations.astype(np.int32),
        "n_consensus": counts.consensus.astype(np.int32),
        "n_primary": counts.primary.astype(np.int32),
        "tiers": _counted(TIERS, counts.tiers),
        "types": _counted(EVIDENCE_TYPES, counts.kinds),
    }


def _components(terms: Terms, dating: Dating, rows: int) -> pa.Array:
    """Lay the terms out in `COMPONENTS`; those of another version are null."""
    known: Terms = {
        **terms,
        "source_type": _names(TYPE_NAMES, dating.source_type),
        "conflict": dating.conflict,
        "year": pa.array(np.nan_to_num(dating.year).astype(np.int32), mask=np.isnan(dating.year)),
        "year_evidence": _names(EVIDENCE_NAMES, dating.year_evidence),
        "overrides": _repeat("", rows),
    }
    arrays = []
    for field in COMPONENTS:
        value = known.get(field.name, pa.nulls(rows, field.type))
        arrays.append(value if isinstance(value, pa.Array) else pa.array(value))
    return pa.StructArray.from_arrays(arrays, fields=list(COMPONENTS))
