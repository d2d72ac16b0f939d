"""The sandbox Internet Archive over real HTTP."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from sandbox.archives import SandboxArchives, SandboxDocument

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


async def read_item(client: aiohttp.ClientSession, identifier: str) -> tuple[dict[str, Any], dict[str, str]]:
    record = await get_json(client, f"/metadata/{identifier}")
    texts = [entry for entry in record["files"] if entry["format"] == "DjVuTXT"]
    return record, texts[0]


@pytest.mark.skipif(not RECORDED.is_dir(), reason="no recorded answers beside the project")
async def test_records_have_the_types_of_a_recorded_one(client: aiohttp.ClientSession) -> None:
    recorded = json.loads((RECORDED / "archive.org_metadata_in.ernet.dli.2015.386852.json").read_text())
    record, text = await read_item(client, "speech-0003")
    recorded_text = next(entry for entry in recorded["files"] if entry["format"] == "DjVuTXT")
    assert text.keys() <= recorded_text.keys()
    assert record.keys() <= recorded.keys()
    for ours, theirs in ((record, recorded), (text, recorded_text)):
        assert {name: type(value) for name, value in ours.items()} == {name: type(theirs[name]) for name in ours}
