from __future__ import annotations

import gzip
import io
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from storage.errors import ParameterError, SourceUnavailable
from storage.shard_plan import Item
from tasks.sources.catalogue import SourceSpec
from tasks.sources.source import Document, Reject, Source
from tests.tasks.sources.conftest import opened


def make_spec(path: Path, **fields: Any) -> SourceSpec:
    columns = {"text": "text", "title": "title", "year": "year", "id": "id", "part_of": "doc_id"}
    return SourceSpec.model_validate(
        {
            "name": "mine",
            "archive": "local_files",
            "source_type": "unknown",
            "trivium": "logic",
            "path": str(path),
            "columns": columns,
            "rows_per_item": 3,
            **fields,
        }
    )


def lines(*rows: Any) -> bytes:
    return b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows)


async def read(spec: SourceSpec, limit: int = 100) -> list[Document | Reject]:
    async with opened(spec) as source:
        return [outcome for item in await source.plan(limit) async for outcome in source.fetch(item)]


async def test_every_kind_of_file_is_read_in_order(tmp_path: Path) -> None:
    def rows(prefix: str) -> list[dict[str, Any]]:
        return [{"id": f"{prefix}{n}", "text": f"text {n}", "year": 1900 + n, "doc_id": prefix} for n in range(5)]

    (tmp_path / "a.jsonl").write_bytes(lines(*rows("a")))
    (tmp_path / "b.jsonl.zst").write_bytes(zstandard.compress(lines(*rows("b"))))
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(lines(*rows("c"))))
    (tmp_path / "sub").mkdir()
    pq.write_table(pa.Table.from_pylist(rows("d")), tmp_path / "sub" / "d.parquet", row_group_size=2)
    (tmp_path / "notes.txt").write_text("not mine")
    found = await read(make_spec(tmp_path))
    beside, *found = found
    assert isinstance(beside, Reject)
    assert (beside.id, beside.reason) == ("mine:notes.txt", "beside-tables")
    assert [outcome.id for outcome in found] == [f"mine:{prefix}{n}" for prefix in "abcd" for n in range(5)]
    last = found[-1]
    assert isinstance(last, Document)
    assert (last.year, last.extra, last.url) == (1904, {"part_of": "d"}, "sub/d.parquet")


async def test_broken_lines_are_rejects(tmp_path: Path) -> None:
    good = {"id": "g", "text": "good"}
    long = {"text": "x" * 5000}
    (tmp_path / "a.jsonl").write_bytes(
        lines(good, b"{broken", long, b"", b"[1]", b'{"text": "\xff"}', {"id": "n"}, {"id": "h", "text": "end"})
    )
    found = await read(make_spec(tmp_path, max_line_bytes=1024))
    assert [outcome.reason if isinstance(outcome, Reject) else outcome.id for outcome in found] == [
        "mine:g",
        "bad-json",
        "line-too-long",
        "bad-json",
        "mine:a.jsonl:4",
        "missing-text",
        "mine:h",
    ]
    details = [outcome.detail for outcome in found if isinstance(outcome, Reject)]
    assert details[0].startswith("line 2: ")
    assert details[1:3] == ["line 3 exceeds 1024 bytes", "line 5 is not a JSON object"]
    repaired = found[4]
    assert isinstance(repaired, Document)
    assert repaired.text == "ÿ"  # as Windows-1252 has it


async def test_a_single_file_may_be_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines({"text": "one"}))
    (tmp_path / "b.jsonl").write_bytes(lines({"text": "two"}))
    assert len(await read(make_spec(tmp_path / "b.jsonl"))) == 1


async def test_the_plan_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines(*({"text": "t", "year": 1900} for _ in range(200))))
    async with opened(make_spec(tmp_path)) as source:
        assert sum(item.data["rows"] for item in await source.plan(4)) == 30
    spec = make_spec(tmp_path, year_filter={"max": 1900})
    async with opened(spec) as source:
        assert sum(item.data["rows"] for item in await source.plan(4)) == 200


DAMAGED = gzip.compress(b"x" * 1000, mtime=0)[:20] + b"x" * 40


def nameless() -> bytes:
    """A Parquet file with a column whose name is not text."""
    file = io.BytesIO()
    pq.write_table(pa.table({"title": ["T"], "text": ["t"]}), file, store_schema=False)
    return file.getvalue().replace(b"title", b"ti\xffle")


@pytest.mark.parametrize(("suffix", "pack"), [("gz", gzip.compress), ("zst", zstandard.compress)])
async def test_a_file_cut_short_says_so(tmp_path: Path, suffix: str, pack: Callable[[bytes], bytes]) -> None:
    body = pack(lines(*({"text": str(n) * 50} for n in range(6_000))))
    (tmp_path / f"a.jsonl.{suffix}").write_bytes(body[: len(body) // 2])
    *rows, end = await read(make_spec(tmp_path, rows_per_item=1000), limit=20_000)
    assert len(rows) > 1000 and all(isinstance(row, Document) for row in rows)
    assert isinstance(end, Reject)
    assert (end.id, end.reason) == (f"mine:a.jsonl.{suffix}", "broken-file")


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({}, "it is empty"),
        (
            {"a.jpg": b"\xff\xd8\xff", "b.jpg": b"\xff\xd8\xff", "c.exe": b"MZ\0\1"},
            "2 unsupported-kind (a.jpg: a picture",
        ),
        ({"a.jsonl": b""}, "1 empty-file (a.jsonl: a.jsonl has 0 bytes)"),
        ({"a.txt": b""}, "1 empty-file (a.txt: a.txt has 0 bytes)"),
        ({"a.jsonl": b"\n\n"}, "hold no rows"),
        ({"a.jsonl": b'\n{"body": "b", "n": 1}\n'}, "a.jsonl, line 2: there is no column 'text', only ['body', 'n']"),
        ({"a.jsonl": b'{"text": " "}\n{"text": 3}\n'}, "a.jsonl, line 1: the text in 'text' is empty or not text"),
        (
            {"a.csv": b"Text,year\none,1900\n"},
            "a.csv, line 2: there is no column 'text', only ['Text', 'year']; name the",
        ),
        ({"a.jsonl": b"plain words\n"}, "a.jsonl, line 1: Expecting value"),
        ({"a.jsonl.zst": b"not what the suffix promises"}, "a.jsonl.zst, line 1: Expecting value"),
        ({"a.parquet": b"not what the suffix promises"}, "broken-file (a.parquet: its bytes are not those"),
        ({"a.jsonl.gz": DAMAGED}, "broken-file (a.jsonl.gz: a.jsonl.gz is broken"),
        ({"a.csv": b'text,"ti"tle\nfirst,T1\nsecond,T2\n'}, "its header cannot be read: line 1"),
        ({"a.parquet": nameless()}, "is broken"),
    ],
)
async def test_the_true_fault_is_told_with_file_and_line(tmp_path: Path, files: dict[str, bytes], told: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceUnavailable) as caught:
        await read(make_spec(tmp_path, columns={"text": "text"}))
    assert told in str(caught.value)


async def test_a_folder_that_is_not_there_is_named_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ParameterError, match=f"'mien' is neither folder nor file; {tmp_path / 'mien'} does not exist"):
        await read(make_spec(Path("mien")))


async def test_one_fault_among_good_rows_is_a_reject_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines({"text": "good"}, b"", {"txet": "typo"}))
    (tmp_path / "b.jsonl").write_bytes(b"")
    pq.write_table(pa.table({"text": ["good", None]}), tmp_path / "c.parquet")
    found = [one for one in await read(make_spec(tmp_path)) if isinstance(one, Reject)]
    assert {(one.url, one.reason, one.detail) for one in found} == {
        ("a.jsonl", "missing-text", "line 3: there is no column 'text', only ['txet']"),
        ("b.jsonl", "empty-file", "b.jsonl has 0 bytes"),
        ("c.parquet", "missing-text", "row 2: the text in 'text' is empty or not text"),
    }


async def test_csv_is_read_with_fields_over_several_lines(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(
        b'\xef\xbb\xbfid,text,year\r\n1,"He said ""no"",\r\ntwice",1901\r\n\r\n2,short\r\n'
        b"3," + b"x" * 5000 + b',1902\r\n4,bad \xff\0 byte,\r\n5,"never closed,1903\r\n'
    )
    found = await read(make_spec(tmp_path, max_line_bytes=1024, rows_per_item=2))
    told = [outcome.detail if isinstance(outcome, Reject) else (outcome.id, outcome.year) for outcome in found]
    assert told == [
        ("mine:1", 1901),
        "line 5 has 2 fields, the header names 3",
        "line 6 exceeds 1024 bytes",
        ("mine:4", None),
        "line 8: unexpected end of data",
    ]
    texts = [outcome.text for outcome in found if isinstance(outcome, Document)]
    assert texts == ['He said "no",\r\ntwice', "bad ÿ byte"]


async def test_a_csv_row_that_lacks_an_over_long_line_is_no_row(tmp_path: Path) -> None:
    long = "x" * 2000
    (tmp_path / "a.csv").write_text(
        "id,text\n"
        f'1,"begins\n{long}\nends"\n'
        f'2,"begins\n{long}, ""he said""\n{long}"\n'
        f'3,"{long}\nends, once more"\n'
        "4,whole\n"
        f'5,"{long}"\n'
        '6,"whole\nas well"\n'
        f'7,"{long}\n8,never closed\n'
    )
    found = await read(make_spec(tmp_path, max_line_bytes=1024, rows_per_item=2))
    assert [one.detail if isinstance(one, Reject) else (one.id, one.text) for one in found] == [
        "line 3 exceeds 1024 bytes; its row ends in line 4",
        "line 6 exceeds 1024 bytes; its row ends in line 7",
        "line 8 exceeds 1024 bytes; its row ends in line 9",
        ("mine:4", "whole"),
        "line 11 exceeds 1024 bytes",
        ("mine:6", "whole\nas well"),
        "line 14 exceeds 1024 bytes; its row ends in line 15",
    ]
    assert {one.reason for one in found if isinstance(one, Reject)} == {"line-too-long"}


async def test_bytes_that_are_not_utf8_are_read_as_windows_1252_in_parquet_too(tmp_path: Path) -> None:
    noise = pa.array([b"bad \xff byte", b"good", None]).view(pa.string())
    table = pa.table(
        {
            "id": ["a", "b", "c"],
            "text": noise,
            "title": noise.dictionary_encode(),
            "deep": pa.StructArray.from_arrays([noise], ["author"]),
            "many": pa.ListArray.from_arrays([0, 1, 2, 3], noise),
            "year": [1901, None, 1903],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    columns = {"text": "text", "id": "id", "title": "title", "author": "deep.author", "year": "year", "part_of": "many"}
    bad, good, empty = await read(make_spec(tmp_path, columns=columns))
    assert isinstance(bad, Document) and isinstance(good, Document) and isinstance(empty, Reject)
    assert [bad.text, bad.title, bad.author, bad.extra["part_of"]] == ["bad ÿ byte"] * 4
    assert [good.text, good.title, good.author, good.extra["part_of"]] == ["good"] * 4
    assert (bad.year, good.year, empty.reason) == (1901, None, "missing-text")


async def test_a_folder_of_texts_is_one_document_a_file(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b c#1.md").write_text("second", "utf-8")
    (tmp_path / "a.txt").write_bytes(b"first \xff")
    (tmp_path / "large.txt").write_text("x" * 2000, "utf-8")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "c.txt").write_text("hidden", "utf-8")
    spec = make_spec(tmp_path, max_line_bytes=1024, columns={"text": "body"})
    found = await read(spec)
    assert [(one.id, one.text, one.title) for one in found if isinstance(one, Document)] == [
        ("mine:a.txt", "first ÿ", "a"),
        ("mine:sub/b c#1.md", "second", "b c#1"),
    ]
    assert [(one.id, one.reason) for one in found if isinstance(one, Reject)] == [("mine:large.txt", "file-too-large")]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
async def test_a_file_that_changed_is_neither_read_nor_planned_under_the_old_plan(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(lines({"text": "one"}))
    async with opened(make_spec(tmp_path)) as source:
        (item,) = await source.plan(1)
        (tmp_path / name).write_bytes(lines({"text": "one"}, {"text": "two"}))
        with pytest.raises(SourceUnavailable, match="snapshot"):
            [outcome async for outcome in source.fetch(item)]
        if "file" in item.data:  # rows added to a file would come after those that are known
            with pytest.raises(SourceUnavailable, match="snapshot"):
                await source.plan(5, {item.native_id: item})


@pytest.mark.parametrize("suffix", [".txt", ".jsonl"])
async def test_files_that_came_since_are_planned_alone(tmp_path: Path, suffix: str) -> None:
    def write(names: str) -> None:
        for name in names:
            (tmp_path / f"{name}{suffix}").write_bytes(lines({"text": f"text of {name}"}))

    spec = make_spec(tmp_path, rows_per_item=2)
    write("bd")
    async with opened(spec) as source:
        known = {item.native_id: item for item in await source.plan(10)}
    write("ace")
    async with opened(spec) as source:
        added = await source.plan(10, known)
        found = [outcome.id async for outcome in _all(source, added)]
        assert await source.plan(10, known | {item.native_id: item for item in added}) == []
    assert [name.partition(":")[2][0] for name in found] == ["a", "c", "e"]


async def _all(source: Source, items: list[Item]) -> AsyncIterator[Document | Reject]:
    for item in items:
        async for outcome in source.fetch(item):
            yield outcome


async def test_a_plan_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for folder in (inside, outside):
        folder.mkdir()
        (folder / "a.jsonl").write_bytes(lines({"text": folder.name}))
    async with opened(make_spec(inside)) as source:
        size = (outside / "a.jsonl").stat().st_size
        data = {"file": "../outside/a.jsonl", "file_bytes": size, "start": 0, "rows": 1}
        item = Item(native_id="x", url="x", data=data)
        with pytest.raises(SourceUnavailable):
            [outcome async for outcome in source.fetch(item)]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
async def test_scores_that_rows_have_are_kept(tmp_path: Path, suffix: str) -> None:
    scores = {"auth_weight": 0.05, "prov_entropy": 7.0, "trivium_category": "logic"}
    rows = [{"id": "1", "text": "one", **scores}, {"id": "2", "text": "two", "auth_weight": None}]
    file = tmp_path / f"a.{suffix}"
    if suffix == "csv":  # which knows no numbers
        file.write_text("id,text,auth_weight,prov_entropy,trivium_category\n1,one,0.05,7,logic\n2,two,high,nan,\n")
    elif suffix == "jsonl":
        file.write_bytes(lines(*rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), file)
    found = [one for one in await read(make_spec(tmp_path, columns={"text": "text"})) if isinstance(one, Document)]
    assert [one.extra for one in found] == [
        scores,
        {"auth_weight": "high", "prov_entropy": "nan"} if suffix == "csv" else {},
    ]
