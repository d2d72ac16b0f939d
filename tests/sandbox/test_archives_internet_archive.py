"""The sandbox Internet Archive over real HTTP."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest

from sandbox.archives import SandboxArchives, SandboxDocument
from sandbox.archives.internet_archive import parse_query
from sandbox.archives.internet_archive_items import make_item
from sandbox.archives.text_spool import TextSlot

RECORDED = Path(__file__).parents[3] / "shared" / "api"
SPEECHES = "collection:sandbox_historical_speeches AND mediatype:texts AND year:[1700 TO 1969]"


def speech(number: int, **fields: Any) -> SandboxDocument:
    known: dict[str, Any] = {
        "source": "historical_speeches",
        "native_id": f"speech {number:04d}",
        "text": f"Fellow citizens! Ünicode, part {number}.\f" * 20,
        "title": f"An address on matter {number}",
        "author": "A. Speaker; B. Writer",
        "year": 1800 + number % 100,
        "language": "eng",
        "part_of": f"volume {number // 10}",
    }
    return SandboxDocument(**(known | fields))


DOCUMENTS = [speech(number) for number in range(230)]


@pytest.fixture
async def archives() -> AsyncIterator[SandboxArchives]:
    async with SandboxArchives(iter(DOCUMENTS), unavailable_items=True) as running:
        yield running


@pytest.fixture
async def client(archives: SandboxArchives) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(archives.environment["DISTRUST_ARCHIVE_ORG_URL"]) as session:
        yield session


async def get_json(client: aiohttp.ClientSession, path: str, **query: str) -> Any:
    async with client.get(path, params=query) as answer:
        return await answer.json()


async def scrape(client: aiohttp.ClientSession, **query: str) -> list[dict[str, Any]]:
    pages = [await get_json(client, "/services/search/v1/scrape", **query)]
    while "cursor" in pages[-1]:
        pages.append(await get_json(client, "/services/search/v1/scrape", **query, cursor=pages[-1]["cursor"]))
    assert {page["total"] for page in pages} == {sum(page["count"] for page in pages)}
    return pages


async def test_scrape_pages_by_cursor_to_the_end(client: aiohttp.ClientSession) -> None:
    pages = await scrape(client, q=SPEECHES, count="100", fields="identifier,title,date,year,creator")
    assert [page["count"] for page in pages] == [100, 100, 31]
    items = [item for page in pages for item in page["items"]]
    identifiers = [item["identifier"] for item in items]
    assert identifiers == sorted(set(identifiers))
    assert items[1] == {
        "identifier": "speech-0000",
        "title": "An address on matter 0",
        "date": "1800-01-01T00:00:00Z",
        "year": 1800,
        "creator": ["A. Speaker", "B. Writer"],
    }


async def test_scrape_refuses_what_the_archive_refuses(client: aiohttp.ClientSession) -> None:
    for wrong in ({"count": "50"}, {"count": "x"}, {"cursor": "!!"}, {"cursor": "W10="}):
        answer = await get_json(client, "/services/search/v1/scrape", q=SPEECHES, **wrong)
        assert set(answer) == {"error", "errorType"}
    assert await get_json(client, "/metadata/no-such-item") == {}


async def read_item(client: aiohttp.ClientSession, identifier: str) -> tuple[dict[str, Any], dict[str, str]]:
    record = await get_json(client, f"/metadata/{identifier}")
    texts = [entry for entry in record["files"] if entry["format"] == "DjVuTXT"]
    return record, texts[0]


async def test_a_range_is_answered_with_just_that_part(client: aiohttp.ClientSession) -> None:
    _, text = await read_item(client, "speech-0007")
    path, size = f"/download/speech-0007/{quote(text['name'])}", int(text["size"])
    whole = DOCUMENTS[7].text.encode()
    for sent, start, stop in (
        ("bytes=10-19", 10, 20),
        (f"bytes={size - 5}-", size - 5, size),
        ("bytes=-7", size - 7, size),
    ):
        async with client.get(path, headers={"Range": sent}) as answer:
            assert answer.status == 206
            assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{size}"
            assert await answer.read() == whole[start:stop]
    for sent in (f"bytes={size}-", "bytes=x"):
        async with client.get(path, headers={"Range": sent}) as answer:
            assert answer.status == 416
            assert answer.headers["Content-Range"] == f"bytes */{size}"


QUERIES = [
    ("collection:sandbox_historical_speeches", True),
    ("collection:(foo OR sandbox_historical_speeches) AND date:[1700-01-01 TO 1969-12-31]", True),
    ('subject:"historical speeches" AND mediatype:texts', True),
    ("collection:sandbox_classical_philosophy", False),
    ("mediatype:texts AND NOT collection:(inlibrary OR printdisabled)", True),
    ("mediatype:texts -collection:sandbox_historical_speeches", False),
    ("collection:sandbox AND subject:philosophy", False),
    ("identifier:speech-0001", True),
    ('collection:sandbox AND (title:"on  Matter 1" OR subject:"comet")', True),
    ('collection:sandbox AND (title:"comet" OR subject:"historical speeches")', True),
    ('collection:sandbox AND (title:"matter 10" OR subject:"matter")', False),
]


def test_queries() -> None:
    item = make_item(speech(1), "speech-0001", TextSlot(0, 1, ""))
    assert [(query, parse_query(query)(item)) for query, _ in QUERIES] == QUERIES


@pytest.mark.skipif(not RECORDED.is_dir(), reason="no recorded answers beside the project")
async def test_records_have_the_types_of_a_recorded_one(client: aiohttp.ClientSession) -> None:
    recorded = json.loads((RECORDED / "archive.org_metadata_in.ernet.dli.2015.386852.json").read_text())
    record, text = await read_item(client, "speech-0003")
    recorded_text = next(entry for entry in recorded["files"] if entry["format"] == "DjVuTXT")
    assert text.keys() <= recorded_text.keys()
    assert record.keys() <= recorded.keys()
    for ours, theirs in ((record, recorded), (text, recorded_text)):
        assert {name: type(value) for name, value in ours.items()} == {name: type(theirs[name]) for name in ours}
