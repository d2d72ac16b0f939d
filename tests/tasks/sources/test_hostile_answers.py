"""Whatever an archive answers, what reads it raises a declared error or none, and in bounded time."""

from __future__ import annotations

import bz2
import contextlib
import io
import json
import tarfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from yarl import URL

from storage.errors import ArchiveBusy, CorruptAnswer, DistrustError, ItemUnavailable, SourceUnavailable
from storage.hub_errors import named_pause, retry_after
from tasks.sources.answers import check_object, error_of, parse_json, redirect_target
from tasks.sources.catalogue import load_catalogue
from tasks.sources.file_rows import BadLine, lines_of, parse_line
from tasks.sources.internet_archive_items import check_item, choose_texts, every, find_stamps, first
from tasks.sources.newspaper_pages import find_segment, full_text, plan_page, text_address
from tasks.sources.rows import map_row
from tasks.sources.source import Document, Reject

BOUNDED = settings(
    max_examples=60, deadline=timedelta(seconds=1), suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
CATALOGUE = load_catalogue(None)
NASTY = st.sampled_from(
    [
        "http://[broken",
        "https://[::1",
        "http://www.loc.gov/resource/sn1/1900-01-01/ed-1/?sp=1",
        "https://host:99999/x",
        "//evil.example/..",
        "9" * 5000,
        "\ud800",
        "\0",
        "../../etc/passwd",
        "DjVuTXT",
        "https://tile.loc.gov/text-services/word-coordinates-service?segment=/service/../x.xml",
        "https://[x/word-coordinates-service?segment=/service/x.xml",
        "-1",
        "1900-13-99",
    ]
)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), NASTY)
KEYS = st.sampled_from(
    [
        "id",
        "page_id",
        "title",
        "date",
        "language",
        "lccn",
        "image_url",
        "word_coordinates_url",
        "resource",
        "page",
        "fulltext_file",
        "fulltext_service",
        "url",
        "use",
        "metadata",
        "files",
        "identifier",
        "collection",
        "access-restricted-item",
        "is_dark",
        "name",
        "format",
        "size",
        "md5",
        "private",
        "full_text",
        "text",
        "year",
        "author",
        "licence",
    ]
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(KEYS, inner, max_size=6)),
    max_leaves=20,
)
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=8)


@BOUNDED
@given(st.one_of(st.binary(max_size=300), VALUES.map(lambda value: json.dumps(value).encode())))
@example(b"[" * 100_000)
@example(b"9" * 10_000)
@example(b'{"a": NaN}')
def test_json(body: bytes) -> None:
    try:
        value = parse_json(body, {"Content-Type": "application/json"}, "http://127.0.0.1")
        check_object(value, "http://127.0.0.1", ("a",))
    except CorruptAnswer:
        pass


@BOUNDED
@given(
    st.integers(100, 599), st.dictionaries(st.sampled_from(["Retry-After", "Content-Type", "cf-mitigated"]), st.text())
)
@example(429, {"Retry-After": "9" * 5000})
@example(503, {"Retry-After": "Fri, 31 Dec 999999 23:59:59 GMT"})
def test_status_and_headers(status: int, headers: dict[str, str]) -> None:
    error = error_of(status, headers, "http://127.0.0.1", wants_json=True)
    assert error is None or isinstance(error, DistrustError)
    if isinstance(error, ArchiveBusy) and error.retry_after_seconds is not None:
        assert error.retry_after_seconds >= 0
    if value := headers.get("Retry-After"):
        assert retry_after(value) is None or retry_after(value) >= 0  # type: ignore[operator]


@BOUNDED
@given(st.dictionaries(st.sampled_from(["RateLimit", "ratelimit", "Retry-After", "retry-after"]), st.text(max_size=60)))
@example({"Retry-After": "Fri, 31 Dec 99999999999999999999 23:59:59 GMT"})
@example({"RateLimit": '"api";r=0;t=' + "9" * 5000})
@example({"RateLimit": '"api";r=0;t=-1', "Retry-After": "9" * 5000})
def test_pauses_of_the_hub(headers: dict[str, str]) -> None:
    pause = named_pause(headers, datetime.now(UTC))
    assert pause is None or pause >= 0


@BOUNDED
@given(st.one_of(st.text(max_size=60), NASTY))
def test_redirects(location: str) -> None:
    try:
        target = redirect_target(URL("https://archive.org/x"), location, ["archive.org"])
    except ItemUnavailable:
        return
    assert target.scheme == "https" and (target.host or "").endswith("archive.org")


@BOUNDED
@given(OBJECTS)
@example({"metadata": {"identifier": "x"}, "files": [{"name": "a", "format": "DjVuTXT", "size": "9" * 5000}]})
def test_metadata_of_the_internet_archive(answer: dict[str, Any]) -> None:
    try:
        check_item(answer, "x")
        assert choose_texts(answer)
    except (ItemUnavailable, CorruptAnswer):
        pass


@BOUNDED
@given(VALUES)
def test_fields_of_the_internet_archive(value: Any) -> None:
    assert all(isinstance(text, str) and text for text in every(value))
    assert first(value) is None or isinstance(first(value), str)


@BOUNDED
@given(VALUES)
@example({"id": "http://[broken"})
@example(
    {"id": "http://www.loc.gov/resource/sn1/1900-01-01/ed-1/", "image_url": ["https://[x/word-coordinates-service?"]}
)
def test_hits_of_the_newspaper_search(hit: Any) -> None:
    item = plan_page(hit)
    if item is not None:
        segment = item.data["segment"]
        assert not segment or (segment.startswith("/service/") and ".." not in segment)
        assert URL(item.url).host, "the page's own record is asked for below the archive's root"


@BOUNDED
@given(OBJECTS)
@example({"image_url": "http://[word-coordinates-service"})
def test_segments(hit: dict[str, Any]) -> None:
    assert ".." not in find_segment(hit)


@BOUNDED
@given(OBJECTS)
@example({"resource": {"fulltext_file": "http://[broken"}})
@example({"resource": {"fulltext_file": "https://tile.loc.gov:99999/x"}})
@example({"resource": {"fulltext_file": "https://tile.loc.gov//evil.example/x"}})
@example({"page": [{"use": "text", "url": "https://evil.example/x"}]})
def test_records_of_newspaper_pages(record: dict[str, Any]) -> None:
    address = text_address(record, URL("https://tile.loc.gov"))
    assert address is None or address.host == "tile.loc.gov"


@BOUNDED
@given(OBJECTS)
def test_texts_of_newspaper_pages(answer: dict[str, Any]) -> None:
    with contextlib.suppress(CorruptAnswer):
        assert isinstance(full_text(answer), str)


@BOUNDED
@given(st.text(max_size=400))
def test_stamps_of_digitisers(text: str) -> None:
    assert all(place >= 0 for place in find_stamps(text).values())


@BOUNDED
@given(st.lists(st.one_of(st.binary(max_size=80), OBJECTS.map(lambda row: json.dumps(row).encode())), max_size=8))
@example([b"[" * 60_000])
@example([b'{"year": ' + b"9" * 6000 + b"}"])
def test_json_lines(lines: list[bytes]) -> None:
    for number, line in lines_of(io.BytesIO(b"\n".join(lines)), 50_000):
        assert isinstance(parse_line(line, number, 50_000), dict | BadLine)


@BOUNDED
@given(OBJECTS, st.sampled_from(sorted(CATALOGUE)))
def test_rows_of_the_hub(row: dict[str, Any], name: str) -> None:
    outcome = map_row(row, 0, CATALOGUE[name], 2026)
    assert isinstance(outcome, Document | Reject)
    assert outcome.id.startswith(f"{name}:")


@BOUNDED
@given(st.binary(max_size=600))
def test_newspaper_batches(tmp_path_factory: pytest.TempPathFactory, body: bytes) -> None:
    from tasks.sources.newspaper_batches import GuardedFile

    path = tmp_path_factory.getbasetemp() / "batch.tar.bz2"
    for content in (body, bz2.compress(body)):
        path.write_bytes(content)
        try:
            with GuardedFile(path, 10_000) as packed, tarfile.open(fileobj=packed, mode="r|") as archive:
                list(archive)
        except (tarfile.TarError, EOFError, OSError, ValueError):
            pass  # all of them become "broken-archive"


@BOUNDED
@given(st.binary(max_size=400))
def test_tables_in_local_files(tmp_path_factory: pytest.TempPathFactory, body: bytes) -> None:
    from tasks.sources.file_rows import read_rows

    for suffix in (".parquet", ".csv", ".jsonl", ".jsonl.zst", ".jsonl.gz"):
        path: Path = tmp_path_factory.getbasetemp() / f"table{suffix}"
        path.write_bytes(body)
        with contextlib.suppress(SourceUnavailable):
            assert all(isinstance(row, dict | BadLine) for row in read_rows(path, 10_000))
