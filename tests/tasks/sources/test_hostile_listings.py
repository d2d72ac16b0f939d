"""Whatever a listing answers, page after page: a plan that can be kept, or a declared error, after a bounded walk."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import example, given, settings
from hypothesis import strategies as st

from storage.errors import DistrustError
from storage.shard_plan import Item, make_plan, write_plan
from tasks.sources.catalogue import SourceSpec
from tasks.sources.source import Source, reserve
from tests.bounded import BOUNDED, within
from tests.tasks.sources import test_chronicling_america, test_internet_archive
from tests.tasks.sources.conftest import FakeClock, opened
from tests.tasks.sources.test_hostile_answers import NASTY, VALUES

FEW = settings(BOUNDED, max_examples=25)
LIMIT = 20
NUMBERS = st.one_of(st.integers(-3, 300), st.just(10**30), st.booleans(), st.none(), st.text(max_size=3))
NAMES = st.one_of(st.sampled_from(["a", "b", "c", "d"]), NASTY, VALUES)

SCRAPES = st.fixed_dictionaries(
    {"items": st.one_of(st.lists(st.one_of(st.fixed_dictionaries({"identifier": NAMES}), VALUES), max_size=6), VALUES)},
    optional={"cursor": st.one_of(st.sampled_from(["c1", "c2"]), NAMES), "total": NUMBERS, "error": VALUES},
)
HITS = st.fixed_dictionaries(
    {"id": st.one_of(st.just("http://www.loc.gov/resource/sn1/1900-01-02/ed-1/?sp=1"), NAMES)},
    optional={"date": st.one_of(st.just("1900-01-02"), NAMES), "page_id": NAMES, "title": NAMES, "image_url": VALUES},
)
SEARCHES = st.fixed_dictionaries(
    {
        "results": st.one_of(st.lists(st.one_of(HITS, VALUES), max_size=6), VALUES),
        "pagination": st.one_of(st.fixed_dictionaries({"of": NUMBERS, "total": NUMBERS}), VALUES),
    }
)


@asynccontextmanager
async def served(pages: list[Any]) -> AsyncIterator[tuple[str, list[str]]]:
    """Answer one request after the other, the last page for ever; yields the root and what was asked for."""
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path_qs)
        page = pages[min(len(asked), len(pages)) - 1]
        return web.Response(text=json.dumps(page), content_type="application/json")

    app = web.Application()
    app.router.add_get("/{anything:.*}", answer)
    server = TestServer(app)
    await server.start_server()
    try:
        yield str(server.make_url("/")).rstrip("/"), asked
    finally:
        await server.close()


def walk(pages: list[Any], spec: SourceSpec, most_requests: int) -> None:
    """Count and plan from some pages; what comes of it can be kept on disk, or is an error of this project."""

    async def attempt(use: Callable[[Source], Awaitable[Any]], root: str) -> Any:
        try:
            async with opened(spec, root, FakeClock(), attempts=2) as source:
                return await use(source)
        except DistrustError:
            return None

    async def look() -> tuple[int | None, list[Item]]:
        async with served(pages) as (root, asked):
            count = await attempt(lambda source: source.count(), root)
            asked.clear()
            items = await attempt(lambda source: source.plan(LIMIT), root) or []
            assert len(asked) <= most_requests, asked
            return count, items

    count, items = asyncio.run(look())
    assert count is None or isinstance(count, int)
    assert len({item.native_id for item in items}) == len(items) <= reserve(LIMIT)
    assert all(item.native_id and urlsplit(item.url).netloc for item in items)
    with TemporaryDirectory() as folder:
        kept = write_plan(Path(folder), make_plan("s", "r", items, 3))
        assert [item for shard in kept.shards for item in shard.items] == items


@FEW
@given(st.lists(SCRAPES, min_size=1, max_size=4))
@example([{"items": [{"identifier": "\ud800"}], "total": 1}])
@example([{"items": [{"identifier": "a"}], "cursor": "\ud800"}])
@example([{"items": [{"identifier": "a" * 100_000}], "total": 1}])
@example([{"items": [{"identifier": {"a": 1}}], "total": True}])
@example([{"items": [], "cursor": "c1"}])
@example([{"items": [{"identifier": "a"}, {}], "cursor": "c1"}, {"items": [{}, {"identifier": "a"}], "cursor": "c1"}])
@within(5)
def test_pages_of_the_internet_archive(pages: list[Any]) -> None:
    walk(pages, test_internet_archive.make_spec(), most_requests=2 * len(pages) + 4)


@FEW
@given(st.lists(SEARCHES, min_size=1, max_size=4))
@example([{"results": [{"id": "http://www.loc.gov/resource/sn1/1900-01-02/ed-1/?sp=\ud800"}], "pagination": {}}])
@example(
    [{"results": [{"id": "http://www.loc.gov/resource/sn1/1900-01-02/ed-1/", "page_id": "\ud800"}], "pagination": {}}]
)
@example([{"results": [{"id": "http://www.loc.gov/resource/sn1/1900-01-02/ed-1/"}], "pagination": {"of": 10**9}}])
@example([{"results": [{"id": "http://www.loc.gov/resource/sn1/1900-01-02/ed-1/"}], "pagination": {"total": 10**9}}])
@within(5)
def test_pages_of_the_newspaper_search(pages: list[Any]) -> None:
    # 31 days are halved into at most 61 slices, each asked for one page; a round that adds nothing ends the plan.
    walk(pages, test_chronicling_america.make_spec(), most_requests=4 * 61 + 4)
