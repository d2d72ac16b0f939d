"""A page of a listing that is larger than any answer may be is asked for in parts."""

from __future__ import annotations

import json

import pytest
from aiohttp import web

from storage.errors import SourceUnavailable
from tasks.sources import http
from tasks.sources.connection import Pace
from tasks.sources.internet_archive import MIN_PAGE
from tasks.sources.source import reserve
from tests.tasks.sources import test_chronicling_america, test_internet_archive
from tests.tasks.sources.conftest import FakeClock, Serve, opened
from tests.tasks.sources.hostile import HostileArchive, HostileItem

PACE = Pace(requests_per_second=1000)


class Verbose(test_chronicling_america.Library):
    """A library that keeps to the size that is asked for, and says so much about one page of a paper."""

    wordy = "1900-01-17"
    chars = 3000

    async def search(self, request: web.Request) -> web.Response:
        self.page_size = int(request.query["c"])
        answer = await super().search(request)
        assert isinstance(answer.body, bytes)
        found = json.loads(answer.body)
        for hit in found["results"]:
            if hit["date"] == self.wordy:
                hit["description"] = "x" * self.chars
        return web.json_response(found)


@pytest.mark.parametrize("chars", [2_000, 39_000])
async def test_newspaper_hits_come_in_order_and_once(
    serve: Serve, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, chars: int
) -> None:
    library = Verbose()
    library.per_day, library.chars = 9, chars  # 279 hits, of 550 bytes each
    monkeypatch.setattr(http, "JSON_CAP_BYTES", 40_000 * 9 if chars > 10_000 else 40_000)
    spec = test_chronicling_america.make_spec()
    async with opened(spec, await library.open(serve), clock) as source:
        items = await source.plan(1000)
        assert await source.count() == 279
    found = [(item.data["date"], item.data["sequence"]) for item in items]
    assert found == sorted(found) and len(set(found)) == 279


async def test_a_search_of_books_is_asked_for_shorter_pages(
    serve: Serve, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"book-{number:04}" for number in range(900)]
    archive = HostileArchive({name: HostileItem(b"") for name in names})
    root = await serve(archive.routes())
    spec = test_internet_archive.make_spec()
    monkeypatch.setattr(http, "JSON_CAP_BYTES", 250 * 40)  # an entry has 29 bytes
    async with opened(spec, root, clock) as source:
        assert [item.native_id for item in await source.plan(600)] == names[: reserve(600)]
    assert archive.requests["scrape"] < 8
    monkeypatch.setattr(http, "JSON_CAP_BYTES", MIN_PAGE * 10)
    async with opened(spec, root, clock) as source:
        with pytest.raises(SourceUnavailable, match="too-large"):
            await source.plan(600)
