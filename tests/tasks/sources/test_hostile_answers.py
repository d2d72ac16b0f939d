"""Whatever an archive answers, what reads it raises a declared error or none, and in bounded time."""

from __future__ import annotations

import bz2
import contextlib
import io
import json
import tarfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from yarl import URL

from storage.errors import ArchiveBusy, CorruptAnswer, DistrustError, ItemUnavailable
from storage.hub_errors import named_pause
from tasks.sources.answers import check_object, error_of, parse_json, redirect_target
from tasks.sources.catalogue import load_catalogue
from tasks.sources.files.reading import FileReader
from tasks.sources.files.record import BadLine
from tasks.sources.files.tables import lines_of, parse_line
from tasks.sources.internet_archive_items import check_item, choose_texts, every, find_stamps
from tasks.sources.newspaper_batches import unpacked
from tasks.sources.newspaper_pages import find_segment, full_text, plan_page, text_address
from tasks.sources.rows import map_row
from tasks.sources.source import Document, Reject
from tests.bounded import BOUNDED, within
from tests.tasks.sources.conftest import make_spec

SOME = settings(BOUNDED, max_examples=60)
CATALOGUE = load_catalogue(None)
HOST = "http://127.0.0.1"
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
NAMES = """id page_id title date language lccn image_url word_coordinates_url resource page fulltext_file
    fulltext_service url use metadata files identifier collection access-restricted-item is_dark name format size md5
    private full_text text year author licence"""
KEYS = st.sampled_from(NAMES.split())
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(KEYS, inner, max_size=6)),
    max_leaves=20,
)
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=8)
HEADERS = st.dictionaries(st.sampled_from(["Retry-After", "Content-Type", "cf-mitigated", "RateLimit"]), st.text())


def read_json(body: bytes) -> None:
    with contextlib.suppress(CorruptAnswer):
        check_object(parse_json(body, {"Content-Type": "application/json"}, HOST), HOST, ("a",))


def read_status(answer: tuple[int, dict[str, str]]) -> None:
    error = error_of(*answer, HOST, wants_json=True)
    assert error is None or isinstance(error, DistrustError)
    if isinstance(error, ArchiveBusy) and error.retry_after_seconds is not None:
        assert error.retry_after_seconds >= 0
    assert (named_pause(answer[1], datetime.now(UTC)) or 0) >= 0


def follow(location: str) -> None:
    with contextlib.suppress(ItemUnavailable):
        target = redirect_target(URL("https://archive.org/x"), location, ["archive.org"])
        assert target.scheme == "https" and (target.host or "").endswith("archive.org")


def read_item(answer: dict[str, Any]) -> None:
    with contextlib.suppress(ItemUnavailable, CorruptAnswer):
        check_item(answer, "x")
        assert choose_texts(answer)


def read_hit(hit: Any) -> None:
    item = plan_page(hit)
    if item is not None:
        segment = item.data["segment"]
        assert not segment or (segment.startswith("/service/") and ".." not in segment)
        assert URL(item.url).host, "the page's own record is asked for below the archive's root"


def read_record(record: dict[str, Any]) -> None:
    assert ".." not in find_segment(record)
    address = text_address(record, URL("https://tile.loc.gov"))
    assert address is None or address.host == "tile.loc.gov"
    with contextlib.suppress(CorruptAnswer):
        assert isinstance(full_text(record), str)


def read_value(value: Any) -> None:
    assert all(isinstance(text, str) and text for text in every(value))
    if isinstance(value, str):
        assert all(place >= 0 for place in find_stamps(value).values())


def read_lines(lines: list[bytes]) -> None:
    for number, line in lines_of(io.BytesIO(b"\n".join(lines)), 50_000):
        assert isinstance(parse_line(line, number, 50_000), dict | BadLine)


def read_row(row: dict[str, Any]) -> None:
    for name, spec in CATALOGUE.items():
        outcome = map_row(row, 0, spec, 2026)
        assert isinstance(outcome, Document | Reject) and outcome.id.startswith(f"{name}:")


LINES = st.lists(st.one_of(st.binary(max_size=80), OBJECTS.map(lambda row: json.dumps(row).encode())), max_size=8)
BODIES = st.one_of(st.binary(max_size=300), VALUES.map(lambda value: json.dumps(value).encode()))
PAGE = "http://www.loc.gov/resource/sn1/1900-01-01/ed-1/"


@pytest.mark.parametrize(
    ("read", "answers", "examples"),
    [
        pytest.param(read_json, BODIES, [b"[" * 100_000, b"9" * 10_000, b'{"a": NaN}'], id="JSON"),
        pytest.param(
            read_status,
            st.tuples(st.integers(100, 599), HEADERS),
            [
                (429, {"Retry-After": "9" * 5000}),
                (503, {"Retry-After": "Fri, 31 Dec 99999999999999999999 23:59:59 GMT"}),
                (429, {"RateLimit": '"api";r=0;t=' + "9" * 5000}),
                (429, {"RateLimit": '"api";r=0;t=-1', "Retry-After": "9" * 5000}),
            ],
            id="status and headers",
        ),
        pytest.param(follow, st.one_of(st.text(max_size=60), NASTY), [], id="redirects"),
        pytest.param(
            read_item,
            OBJECTS,
            [{"metadata": {"identifier": "x"}, "files": [{"name": "a", "format": "DjVuTXT", "size": "9" * 5000}]}],
            id="items of the Internet Archive",
        ),
        pytest.param(read_value, VALUES, [], id="values of metadata"),
        pytest.param(
            read_hit,
            VALUES,
            [{"id": "http://[broken"}, {"id": PAGE, "image_url": ["https://[x/word-coordinates-service?"]}],
            id="hits of the newspaper search",
        ),
        pytest.param(
            read_record,
            OBJECTS,
            [
                {"image_url": "http://[word-coordinates-service"},
                {"image_url": "https://tile.loc.gov/word-coordinates-service?segment=/service/../x.xml"},
                {"resource": {"fulltext_file": "http://[broken"}},
                {"resource": {"fulltext_file": "https://tile.loc.gov:99999/x"}},
                {"resource": {"fulltext_file": "https://tile.loc.gov//evil.example/x"}},
                {"page": [{"use": "text", "url": "https://evil.example/x"}]},
            ],
            id="records of newspaper pages",
        ),
        pytest.param(read_lines, LINES, [[b"[" * 60_000], [b'{"year": ' + b"9" * 6000 + b"}"]], id="JSON lines"),
        pytest.param(read_row, OBJECTS, [], id="rows of a table"),
    ],
)
def test_an_answer_is_read_or_refused(
    read: Callable[[Any], None], answers: st.SearchStrategy[Any], examples: Any
) -> None:
    for example in examples:
        read(example)
    SOME(given(answers)(within(1)(read)))()


@SOME
@given(st.binary(max_size=600))
@within(1)
def test_newspaper_batches(tmp_path_factory: pytest.TempPathFactory, body: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "batch.tar.bz2"
    for content in (body, bz2.compress(body)):
        path.write_bytes(content)
        try:
            with unpacked(path, 10_000) as packed, tarfile.open(fileobj=packed, mode="r|") as archive:
                list(archive)
        except (tarfile.TarError, EOFError, OSError, ValueError):
            pass  # all of them become "broken-archive"


@SOME
@given(
    st.sampled_from([b"", b"PAR1", b"PK\x03\x04", b"\x1f\x8b\x08", b"{", b"a,b\n", b"\xff\xfe"]),
    st.binary(max_size=400),
)
@within(1)
def test_files_of_a_folder(tmp_path_factory: pytest.TempPathFactory, head: bytes, body: bytes) -> None:
    reader = FileReader(make_spec(min_text_chars=1), 2026)
    for suffix in (".parquet", ".csv", ".jsonl", ".json", ".jsonl.zst", ".tar", ".zip", ".txt", ".md"):
        path: Path = tmp_path_factory.getbasetemp() / f"table{suffix}"
        path.write_bytes(head + body)
        assert all(isinstance(row, dict | BadLine) for row in reader.rows(path, path.name))
    reader.parsers.close()
