from __future__ import annotations

import bz2
import hashlib
import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from storage.errors import SourceUnavailable
from storage.shard_plan import Item
from tasks.sources.catalogue import SourceSpec, load_catalogue
from tasks.sources.connection import Connection
from tasks.sources.source import Document, Reject, Source
from tests.tasks.sources.conftest import FakeClock, Serve, opened

FIRST_ISSUE = "historical_newspapers:sn84026749/1905-03-04/ed-1"
PAGES = {
    "sn84026749/1905/03/04/ed-1/seq-1/ocr.txt": b"THE EVENING TIMES\nof the fourth of March",
    "sn84026749/1905/03/04/ed-1/seq-1/ocr.xml": b"<alto>" + b"x" * 5000,
    "sn84026749/1905/03/04/ed-1/seq-2/ocr.txt": b"caf\xe9 on page two\x00",
    "sn84026749/1905/03/05/ed-1/seq-1/ocr.txt": b"  \n ",
    "sn84026749/1890/01/01/ed-1/seq-1/ocr.txt": b"before the span that is wanted",
    "../../../etc/1905/03/04/ed-1/seq-1/ocr.txt": b"no page of ours",
    "/sn84026749/1905/03/04/ed-1/seq-9/ocr.txt": b"no page of ours either",
    "sn84026749/1905/13/45/ed-1/seq-1/ocr.txt": b"no such day",
}


def packed(pages: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:bz2") as archive:
        for name, body in pages.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(body)
            archive.addfile(entry, io.BytesIO(body))
        link = tarfile.TarInfo("sn84026749/1905/03/04/ed-1/seq-7/ocr.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return buffer.getvalue()


def names_of_names(count: int) -> bytes:
    """A tar of headers that each say that the next entry's name follows."""
    header = tarfile.TarInfo("name")
    header.type = tarfile.GNUTYPE_LONGNAME
    return header.tobuf() * count


def entry_of(name: str, body: bytes, **fields: Any) -> dict[str, Any]:
    sha1 = hashlib.sha1(body, usedforsecurity=False).hexdigest()
    entry = {"batch": name, "archive_name": f"{name}.tar.bz2", "sha1": sha1, "size": len(body), "page_count": 3}
    return {**entry, "url": "https://evil.example/x.tar.bz2", **fields}


class Bulk:
    """The library's bulk files: a list and the files."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.listing: list[dict[str, Any]] = []
        self.asked: list[str] = []

    def add(self, name: str, body: bytes, **fields: Any) -> None:
        self.files[f"{name}.tar.bz2"] = body
        self.listing.append(entry_of(name, body, **fields))

    async def open(self, serve: Serve) -> Connection:
        root = await serve({"/data/ocr/ocr.json": self.list, "/data/ocr/{name}": self.file})
        return Connection(loc_url=root, loc_bulk_url=root)

    async def list(self, request: web.Request) -> web.Response:
        return web.json_response(self.listing)

    async def file(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        start = request.http_range.start or 0
        self.asked.append(f"{name}@{start}")
        body = self.files[name]
        headers = {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"} if start else {}
        return web.Response(status=206 if start else 200, body=body[start:], headers=headers)


def make_spec(**fields: Any) -> SourceSpec:
    entry = load_catalogue()["historical_newspapers"]
    return entry.model_copy(update={"bulk": True, "date_from": entry.date_from.replace(1900), **fields})  # type: ignore[union-attr]


async def read(source: Source, item: Item) -> list[Document | Reject]:
    return [outcome async for outcome in source.fetch(item)]


@pytest.fixture
def bulk() -> Bulk:
    return Bulk()


async def test_pages_come_out_of_the_file(bulk: Bulk, serve: Serve, clock: FakeClock, tmp_path: Path) -> None:
    bulk.add("batch_dlc_a_ver01", packed(PAGES))
    async with opened(make_spec(), await bulk.open(serve), clock, tmp_path) as source:
        assert await source.count() == 3
        (item,) = await source.plan(100)
        outcomes = await read(source, item)
        assert await source.plan(100, {item.native_id: item}) == []
    documents = [one for one in outcomes if isinstance(one, Document)]
    assert [(one.id, one.date, one.year, one.text) for one in documents] == [
        (f"{FIRST_ISSUE}/seq-1", "1905-03-04", 1905, "THE EVENING TIMES\nof the fourth of March"),
        (f"{FIRST_ISSUE}/seq-2", "1905-03-04", 1905, "caf\ufffd on page two\x00"),
    ]
    assert documents[0].url == "https://www.loc.gov/resource/sn84026749/1905-03-04/ed-1/?sp=1"
    assert documents[0].extra["part_of"] == "sn84026749/1905-03-04"
    assert [(one.reason, one.id) for one in outcomes if isinstance(one, Reject)] == [
        ("no-text", "historical_newspapers:sn84026749/1905-03-05/ed-1/seq-1")
    ]
    assert bulk.asked == ["batch_dlc_a_ver01.tar.bz2@0"]
    assert list(tmp_path.iterdir()) == []


async def test_a_download_that_died_goes_on(bulk: Bulk, serve: Serve, clock: FakeClock, tmp_path: Path) -> None:
    body = packed(PAGES)
    bulk.add("b1", body)
    (tmp_path / (hashlib.sha256(b"b1").hexdigest()[:32] + ".part")).write_bytes(body[:100])
    async with opened(make_spec(), await bulk.open(serve), clock, tmp_path) as source:
        (item,) = await source.plan(10)
        assert len(await read(source, item)) == 3
    assert bulk.asked == ["b1.tar.bz2@100"]


async def test_files_are_spread_over_the_list_and_pages_are_limited(
    bulk: Bulk, serve: Serve, clock: FakeClock, tmp_path: Path
) -> None:
    for number in range(10):
        bulk.add(f"b{number}", packed(PAGES))
    bulk.listing += [
        {"batch": "../x", "archive_name": "x.tar.bz2"},
        {"batch": "y", "archive_name": "../y.tar.bz2"},
        {"batch": "z", "archive_name": "z.tar.bz2", "sha1": "short"},
        {"batch": 7},
        "no entry",  # type: ignore[list-item]
    ]
    connection = await bulk.open(serve)
    async with opened(make_spec(pages_per_batch=1), connection, clock, tmp_path) as source:
        every = await source.plan(100)
        assert [item.native_id for item in every] == [f"b{number}" for number in range(10)]
        assert len(await read(source, every[0])) == 1
        assert every[0].url.endswith("/data/ocr/b0.tar.bz2") and "evil" not in every[0].url
    async with opened(make_spec(pages_per_batch=4), connection, clock, tmp_path) as source:
        assert [item.native_id for item in await source.plan(2)] == ["b0", "b3", "b6"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"not packed at all", "broken-archive"),
        (packed(PAGES)[:200], "broken-archive"),
        (packed({"sn84026749/1905/03/04/ed-1/seq-1/ocr.xml": b"\0" * 3_000_000}), "broken-archive"),
        (packed({"sn84026749/1905/03/04/ed-1/seq-1/ocr.txt": b"\0" * 1_500_000}), "too-large"),
        (bz2.compress(names_of_names(1000)), "broken-archive"),
    ],
    ids=["no archive", "cut", "a bomb between two pages", "a bomb in a page", "names of names of names"],
)
async def test_a_broken_file_is_a_reject(
    bulk: Bulk, serve: Serve, clock: FakeClock, tmp_path: Path, body: bytes, reason: str
) -> None:
    bulk.add("b1", body)
    async with opened(make_spec(max_file_bytes=2**20), await bulk.open(serve), clock, tmp_path) as source:
        (item,) = await source.plan(10)
        outcomes = await read(source, item)
    assert isinstance(outcomes[-1], Reject)
    assert outcomes[-1].reason == reason
    assert list(tmp_path.iterdir()) == []


async def test_no_list_no_source(serve: Serve, clock: FakeClock) -> None:
    root = await serve({"/elsewhere": Bulk().list})
    async with opened(make_spec(), root, clock) as source:
        with pytest.raises(SourceUnavailable, match="no list of bulk files"):
            await source.plan(10)
