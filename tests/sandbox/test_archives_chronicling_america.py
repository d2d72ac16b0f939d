"""The sandbox Library of Congress over real HTTP."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from sandbox.archives import Fault, SandboxArchives, SandboxDocument
from storage.errors import ParameterError

RECORDED = Path(__file__).parents[3] / "shared" / "api"
SEARCH = "/collections/chronicling-america/"
WANTED = {"fo": "json", "dl": "page", "at": "results,pagination"}


def page(number: int, **fields: Any) -> SandboxDocument:
    known: dict[str, Any] = {
        "source": "historical_newspapers",
        "native_id": f"page-{number}",
        "text": f"TELEGRAPHIC\nNews ñ of day {number}",
        "title": f"The Daily Loop (Ring, Ohio), 1901-01-{number + 1:02d}, p. 1",
        "date": f"1901-01-{number + 1:02d}",
        "lccn": "sn12345678",
        "language": "en",
    }
    return SandboxDocument(**(known | fields))


DOCUMENTS = [page(number) for number in range(29)] + [page(29, date=None, year=1899, lccn=None, language="es")]


@pytest.fixture
async def archives() -> AsyncIterator[SandboxArchives]:
    async with SandboxArchives(DOCUMENTS) as running:
        yield running


@pytest.fixture
async def client(archives: SandboxArchives) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(archives.environment["DISTRUST_LOC_URL"]) as session:
        yield session


async def search(client: aiohttp.ClientSession, **query: str) -> dict[str, Any]:
    async with client.get(SEARCH, params=WANTED | query) as answer:
        assert answer.status == 200
        found: dict[str, Any] = await answer.json()
        return found


async def test_next_links_lead_through_all_pages(client: aiohttp.ClientSession) -> None:
    found = await search(client, c="10")
    assert set(found) == {"results", "pagination"}
    assert (found["pagination"]["of"], found["pagination"]["total"]) == (30, 3)
    seen = [result["id"] for result in found["results"]]
    while link := found["pagination"]["next"]:
        async with client.get(link) as answer:
            found = await answer.json()
        seen += [result["id"] for result in found["results"]]
    assert len(seen) == len(set(seen)) == 30
    async with client.get(SEARCH, params=WANTED | {"c": "10", "sp": "4"}) as answer:
        assert answer.status == 404


async def test_dates_count_only_in_an_advanced_search(client: aiohttp.ClientSession) -> None:
    window = {"start_date": "1901-01-05", "end_date": "1901-01-08"}
    ignored = await search(client, **window)
    assert ignored["pagination"]["of"] == 30
    kept = await search(client, **window, searchType="advanced")
    assert [result["date"] for result in kept["results"]] == [f"1901-01-0{day}" for day in range(5, 9)]
    assert (await search(client, dates="1899/1900"))["pagination"]["of"] == 1
    nothing = await search(client, dates="1800/1801")
    assert (nothing["results"], nothing["pagination"]["of"], nothing["pagination"]["next"]) == ([], 0, None)


async def test_faults_come_in_order_and_then_end() -> None:
    drops = [Fault("drop"), Fault("drop")]
    faults = {"loc-search": [Fault(retry_after="1"), Fault(status=429), Fault("challenge"), *drops]}
    async with (
        SandboxArchives(DOCUMENTS, faults=faults) as archives,
        aiohttp.ClientSession(archives.environment["DISTRUST_LOC_URL"]) as client,
    ):
        async with client.get(SEARCH, params=WANTED) as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        async with client.get(SEARCH, params=WANTED) as answer:
            assert answer.status == 429
            assert "Retry-After" not in answer.headers
        async with client.get(SEARCH, params=WANTED) as answer:
            assert (answer.status, answer.headers["cf-mitigated"]) == (403, "challenge")
            assert answer.content_type == "text/html"
        # The client repeats a dropped GET once of its own accord, so that two drops make one error.
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await client.get(SEARCH, params=WANTED)
        assert (await search(client))["pagination"]["of"] == 30
        assert archives.requests == {"loc-search": 6}


def test_faults_for_a_route_that_does_not_exist_are_refused() -> None:
    with pytest.raises(ParameterError, match="loc-serch"):
        SandboxArchives(DOCUMENTS, faults={"loc-serch": [Fault()]})


@pytest.mark.skipif(not RECORDED.is_dir(), reason="no recorded answers beside the project")
async def test_results_have_the_types_of_a_recorded_one(client: aiohttp.ClientSession) -> None:
    recorded = json.loads(next(RECORDED.glob("loc.gov_resource_sn92070146*")).read_text())
    result = (await search(client))["results"][-1]
    assert result.keys() <= recorded.keys()
    assert {name: type(value) for name, value in result.items()} == {name: type(recorded[name]) for name in result}
    paging = json.loads(next(RECORDED.glob("loc.gov_collections*")).read_text())["pagination"]
    ours = (await search(client))["pagination"]
    assert {name: type(ours[name]) for name in paging} == {name: type(value) for name, value in paging.items()}
