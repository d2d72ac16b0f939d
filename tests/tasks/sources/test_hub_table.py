from __future__ import annotations

from datetime import UTC, date, datetime
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import ArchiveBusy, DistrustError, PrerequisiteError, SourceUnavailable
from storage.hub_errors import named_pause
from tasks.sources.catalogue import SourceSpec, load_catalogue
from tasks.sources.hub_table import dataset_error, pushed_down
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


NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)


def named(kind: str, message: str = "said", status: int | None = None, **headers: str) -> Exception:
    """Make an error that looks like one of the Hub's libraries, of any version."""
    error: Exception = type(kind, (Exception,), {})(message)
    if status is not None:
        error.response = SimpleNamespace(status_code=status, headers=headers)  # type: ignore[attr-defined]
    return error


def wrapped(outer: Exception, inner: Exception) -> Exception:
    outer.__cause__ = inner
    return outer


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (named("DatasetNotFoundError"), SourceUnavailable, "does not exist"),
        (
            named("RevisionNotFoundError", status=404),
            SourceUnavailable,
            "no revision 'v9'; correct `revision` of the catalogue entry",
        ),
        (named("HfHubHTTPError", status=429), ArchiveBusy, "answered 429"),
        (wrapped(FileNotFoundError("x.parquet"), named("HTTPStatusError", status=429)), ArchiveBusy, "answered 429"),
        (wrapped(RuntimeError("read"), ConnectionResetError("gone")), ArchiveBusy, "could not be read"),
        (TimeoutError(), ArchiveBusy, "could not be read"),
        (named("OfflineModeIsEnabled"), PrerequisiteError, "HF_HUB_OFFLINE"),
        # The library cuts the chain of causes; what is left is its words.
        (ConnectionError("Couldn't reach 'org/ds' on the Hub (OfflineModeIsEnabled)"), PrerequisiteError, "HF_HUB_OFF"),
        (named("DatasetNotFoundError", "Dataset 'org/ds' is a gated dataset on the Hub."), SourceUnavailable, "gated:"),
        (named("DatasetNotFoundError", "Revision 'v9' doesn't exist for dataset"), SourceUnavailable, "revision 'v9'"),
        (ValueError("Couldn't cast\na: string\nto\nb: string"), SourceUnavailable, "do not share one set"),
        (ValueError("BuilderConfig 'x' not found. Available: ['y']"), SourceUnavailable, r"Available: \['y'\]"),
    ],
)
def test_what_a_failure_of_the_hub_means(error: Exception, kind: type[DistrustError], words: str) -> None:
    spec = SourceSpec.model_validate(make_fields(revision="v9"))
    with pytest.raises(kind, match=words):
        raise dataset_error(error, spec)


def test_a_named_pause_of_the_hub_is_kept() -> None:
    spec = SourceSpec.model_validate(make_fields())
    error = dataset_error(named("HfHubHTTPError", status=429, **{"Retry-After": "55"}), spec)
    assert isinstance(error, ArchiveBusy)
    assert error.retry_after_seconds == 55


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"RateLimit": '"api";r=0;t=55', "Retry-After": "7"}, 55),
        ({"RateLimit": '"api";r=12;t=55'}, None),
        ({"ratelimit": '"resolvers";t=9;r=0'}, 9),
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": " 7 "}, 7),
        ({"Retry-After": "Mon, 23 Nov 2026 12:01:30 GMT"}, 90),
        ({"retry-after": "Mon, 23 Nov 2026 11:00:00 GMT"}, 0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "٣"}, None),
        ({}, None),
    ],
)
def test_the_pause_that_an_answer_names(headers: dict[str, str], seconds: float | None) -> None:
    assert named_pause(headers, NOW) == seconds
