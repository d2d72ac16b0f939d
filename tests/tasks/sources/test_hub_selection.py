from __future__ import annotations

from datetime import date, datetime
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.sources.catalogue import SourceSpec, load_catalogue
from tasks.sources.hub_table import pushed_down
from tasks.sources.rows import map_row
from tasks.sources.source import Document
from tests.tasks.sources.hub_double import make_fields

KINDS: dict[str, tuple[pa.DataType, Any]] = {
    "year": (pa.int32(), lambda day: day.year),
    "compact": (pa.int64(), lambda day: day.year * 10_000 + day.month * 100 + day.day),
    "date": (pa.date32(), lambda day: day),
    "moment": (pa.timestamp("us"), lambda day: datetime(day.year, day.month, day.day)),  # noqa: DTZ001
    "zoned": (pa.timestamp("ms", tz="UTC"), lambda day: datetime(day.year, day.month, day.day)),  # noqa: DTZ001
}
SCHEMA = pa.schema([("text", pa.string()), ("word", pa.string()), *((name, kind) for name, (kind, _) in KINDS.items())])


def make_spec(columns: dict[str, Any], **year_filter: Any) -> SourceSpec:
    return SourceSpec.model_validate(make_fields(columns={"text": "text", **columns}, year_filter=year_filter))


@given(
    st.lists(st.none() | st.dates(date(1001, 1, 1), date(2026, 1, 1)), max_size=30),
    st.none() | st.integers(1000, 2026),
    st.none() | st.integers(1000, 2026),
    st.sampled_from(sorted(KINDS)),
)
def test_no_row_of_the_years_is_lost(days: list[date | None], low: int | None, high: int | None, name: str) -> None:
    low, high = (high, low) if low is not None and high is not None and low > high else (low, high)
    kind, write = KINDS[name]
    spec = make_spec({"date": name}, min=low, max=high)
    sieve = pushed_down(spec, SCHEMA)
    assert sieve is not None
    numbers = [str(n) for n in range(len(days))]
    values = [day and write(day) for day in days]
    table = pa.table({"text": pa.array(numbers, pa.string()), name: pa.array(values, kind)})
    passed = ds.dataset(table).to_table(filter=sieve).to_pylist()
    kept = [row for row in passed if isinstance(map_row(row, 0, spec, 2026), Document)]
    wanted = [row for row in table.to_pylist() if isinstance(map_row(row, 0, spec, 2026), Document)]
    assert kept == wanted


@pytest.mark.parametrize(
    ("columns", "year_filter"),
    [
        ({"date": "date"}, {"max": 1900, "unknown": "keep"}),
        ({"date": "word"}, {"max": 1900}),
        ({"date": "absent"}, {"max": 1900}),
        ({"date": "date", "year": "year"}, {"max": 1900}),
        ({"date": ["date", "moment"]}, {"max": 1900}),
        ({}, {"max": 1900}),
    ],
)
def test_where_statistics_cannot_tell_every_row_is_read(columns: dict[str, Any], year_filter: dict[str, Any]) -> None:
    assert pushed_down(make_spec(columns, **year_filter), SCHEMA) is None


def test_a_bound_that_a_type_does_not_reach_excludes_nothing() -> None:
    schema = pa.schema([("text", pa.string()), ("date", pa.timestamp("ns"))])
    assert pushed_down(make_spec({"date": "date"}, min=1100), schema) is None


def test_speeches_before_the_span_can_be_skipped() -> None:
    schema = pa.schema([("text", pa.string()), ("date", pa.timestamp("us"))])
    assert pushed_down(load_catalogue()["government_documents"], schema) is not None
