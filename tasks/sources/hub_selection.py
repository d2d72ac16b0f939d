"""Which rows of a Parquet dataset need not be fetched, since their year lies outside."""

from __future__ import annotations

import functools
import operator
from datetime import date
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tasks.sources.catalogue import SourceSpec


def pushed_down(spec: SourceSpec, schema: pa.Schema) -> pc.Expression | None:
    """Return a filter that Parquet statistics can answer and that keeps every row of the years; none if none can.

    The year must come from one column, a date or a whole number (1923 or 19230315), and rows without a year must
    be unwanted. The filter is only a first sieve: each row that passes is still read and checked.
    """
    years = spec.year_filter
    paths = [path for value in (spec.columns.year, spec.columns.date) for path in _several(value) if path]
    if years is None or years.unknown == "keep" or len(paths) != 1 or paths[0] not in schema.names:
        return None
    kind = schema.field(paths[0]).type
    column = pc.field(paths[0])
    low, high = years.min, years.max
    if pa.types.is_integer(kind) and kind.bit_width >= 32:
        compact = _between(column, low and low * 10_000, high and high * 10_000 + 9_999)
        return _between(column, low, high) | (compact & (column > 9_999))
    if not (pa.types.is_date(kind) or pa.types.is_timestamp(kind)):
        return None
    try:
        # A day more on either side: the time zones of a text and of its date may differ.
        first = low and _day(kind, low - 1, 12, 31)
        last = high and _day(kind, high + 1, 1, 2)
    except (pa.ArrowInvalid, ValueError):
        return None  # the type does not reach that far
    return _between(column, first, last)


def _between(column: pc.Expression, low: Any, high: Any) -> pc.Expression:
    bounds = [column >= low] * (low is not None) + [column <= high] * (high is not None)
    return functools.reduce(operator.and_, bounds, column.is_valid())


def _day(kind: pa.DataType, year: int, month: int, day: int) -> pa.Scalar:
    return pa.scalar(date(year, month, day)).cast(kind)


def _several(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else value
