from __future__ import annotations

import json
from datetime import date, timedelta
from typing import Any

import pytest
from aiohttp import web

from storage.errors import ArchiveBlocked, ArchiveBusy, CorruptAnswer, SourceUnavailable
from storage.shard_plan import Item
from tasks.sources.catalogue import SourceSpec
from tasks.sources.connection import Archives, Connection, Pace
from tasks.sources.newspaper_pages import find_segment, plan_page
from tasks.sources.source import Document, Reject, reserve
from tasks.sources.web import Web
from tests.tasks.sources.conftest import FakeClock, Serve, opened, recorded

SEGMENT = "/service/ndnp/curiv/batch_curiv_ocotillo_ver01/data/sn92070146/00414189696/1924112001/1270.xml"


def make_spec(**fields: Any) -> SourceSpec:
    return SourceSpec.model_validate(
        {
            "name": "papers",
            "archive": "chronicling_america",
            "source_type": "historical_newspaper",
            "trivium": "rhetoric",
            "date_from": date(1900, 1, 1),
            "date_to": date(1900, 1, 31),
            **fields,
        }
    )


def hit(day: str, sequence: int = 1, **fields: Any) -> dict[str, Any]:
    return {
        "id": f"http://www.loc.gov/resource/sn1/{day}/ed-1/?sp={sequence}",
        "date": day,
        "title": f"Image {sequence} of The sun (New York), {day}",
        "language": ["english"],
        "location_state": ["new york"],
        "image_url": [
            "https://tile.loc.gov/image-services/iiif/x.jpg",
            f"https://tile.loc.gov/text-services/word-coordinates-service?segment={SEGMENT}&format=alto_xml",
        ],
        **fields,
    }


class Library:
    """A small loc.gov: `per_day` pages a day, and a count of hits that a test may inflate."""

    def __init__(self) -> None:
        self.per_day = 1
        self.page_size = 100
        self.factor = 1
        self.pages_more = 0
        self.names_next = False
        self.ignores_dates = False
        self.searches: list[dict[str, str]] = []
        self.segments: list[str] = []
        self.text: web.Response | None = None
        self.search_answer: web.Response | None = None
        self.challenges_from = self.challenges = 0
        self.records: dict[str, dict[str, Any]] = {}
        self.plain_texts: dict[str, str] = {}

    async def open(self, serve: Serve) -> Connection:
        root = await serve(
            {"/collections/chronicling-america/": self.search, "/resource/{lccn}/{day}/{edition}/": self.record}
        )
        texts = await serve(
            {"/text-services/word-coordinates-service": self.words, "/storage-services/{name}": self.plain}
        )
        return Connection(loc_url=root, loc_text_url=texts)

    async def search(self, request: web.Request) -> web.Response:
        query = dict(request.query)
        self.searches.append(query)
        if self.search_answer is not None:
            return self.search_answer
        if self.challenges_from < len(self.searches) <= self.challenges_from + self.challenges:
            return web.Response(status=403, text="<html>Just a moment...", content_type="text/html")
        assert (query["dl"], query["fo"], query["searchType"], query["qs"]) == ("page", "json", "advanced", "")
        start = date.fromisoformat("1850-01-01" if self.ignores_dates else query["start_date"])
        days = (date.fromisoformat(query["end_date"]) - date.fromisoformat(query["start_date"])).days + 1
        hits = [
            hit((start + timedelta(days=day)).isoformat(), sequence)
            for day in range(days)
            for sequence in range(1, self.per_day + 1)
        ]
        size, number = self.page_size, int(query["sp"])
        pages = -(-len(hits) // size)
        if number > max(pages, 1):
            return web.Response(status=404)
        following = str(request.url.update_query(sp=number + 1)) if self.names_next and number < pages else None
        total = pages + self.pages_more
        pagination = {"of": len(hits) * self.factor, "total": total, "current": number, "next": following}
        return web.json_response({"results": hits[(number - 1) * size : number * size], "pagination": pagination})

    async def words(self, request: web.Request) -> web.Response:
        self.segments.append(request.query["segment"])
        assert request.query["full_text"] == "1"
        return self.text or web.json_response({"another-name.xml": {"full_text": "THE SUN\nshines", "height": "1"}})

    async def record(self, request: web.Request) -> web.Response:
        assert (request.query["fo"], request.query["sp"]) == ("json", "1")
        found = self.records.get(request.match_info["day"])
        return web.json_response(found) if found is not None else web.Response(status=404)

    async def plain(self, request: web.Request) -> web.Response:
        return web.Response(text=self.plain_texts[request.match_info["name"]])


async def test_totals_are_estimates(library: Library, serve: Serve, clock: FakeClock) -> None:
    library.page_size, library.per_day = 10, 3
    span = {"date_from": "1900-01-01", "date_to": "1900-01-10"}
    for more, names_next, factor in [(0, False, 1), (2, False, 1), (-2, True, 1), (1, True, 2)]:
        library.pages_more, library.names_next, library.factor = more, names_next, factor
        async with opened(make_spec(**span), await library.open(serve), clock) as source:
            assert len(await source.plan(100)) == 30
            expected = "the search of 1900-01-01 to 1900-01-10 counts 60 pages and lists 30" if factor == 2 else ""
            assert source.remark == expected


@pytest.fixture
def library() -> Library:
    return Library()


async def plan(library: Library, serve: Serve, clock: FakeClock, limit: int, **fields: Any) -> list[Item]:
    async with opened(make_spec(**fields), await library.open(serve), clock, attempts=2) as source:
        return await source.plan(limit)


async def fetch(
    library: Library, serve: Serve, clock: FakeClock, page: dict[str, Any], patience_seconds: float = 600.0
) -> Document | Reject:
    item = plan_page(page)
    assert item is not None
    options = {"patience_seconds": patience_seconds, "attempts": 2}
    async with opened(make_spec(licence="pd"), await library.open(serve), clock, **options) as source:
        async for outcome in source.fetch(item):
            return outcome
    raise AssertionError("an item without an outcome")


async def test_the_span_is_read_page_by_page(library: Library, serve: Serve, clock: FakeClock) -> None:
    library.per_day, library.page_size = 3, 40
    items = await plan(library, serve, clock, limit=1000)
    assert len(items) == 93
    assert items[1].native_id == "sn1/1900-01-01/ed-1/seq-2"
    assert items[1].url == "https://www.loc.gov/resource/sn1/1900-01-01/ed-1/?sp=2"
    assert {asked["at"] for asked in library.searches} == {"results,pagination"}
    assert [item.data["date"] for item in items] == sorted(item.data["date"] for item in items)


async def test_no_more_is_searched_than_needed(library: Library, serve: Serve, clock: FakeClock) -> None:
    library.per_day = 100
    assert len(await plan(library, serve, clock, limit=100)) == 135
    assert len(library.searches) == 2


async def test_a_slice_with_too_many_hits_is_halved(library: Library, serve: Serve, clock: FakeClock) -> None:
    # 31 days look like 310,000 pages; slices of nine days and less are shallow enough.
    library.factor, library.per_day = 10_000, 1
    items = await plan(library, serve, clock, limit=4, facets=["language:english"], front_pages_only=True)
    days = [date.fromisoformat(item.data["date"]).day for item in items]
    assert len(days) == 15
    assert min(days) <= 8 < 16 < max(days)
    assert library.searches[0]["fa"] == "language:english"
    assert library.searches[0]["front_pages_only"] == "true"


async def test_a_single_day_is_never_halved(library: Library, serve: Serve, clock: FakeClock) -> None:
    library.factor = 1_000_000
    items = await plan(library, serve, clock, limit=1, date_to=date(1900, 1, 1))
    assert len(items) == 1


async def test_what_one_half_lacks_the_other_gives(library: Library, serve: Serve, clock: FakeClock) -> None:
    library.factor = 10_000
    items = await plan(library, serve, clock, limit=16)
    assert len(items) == len({item.native_id for item in items}) == 30


async def test_an_empty_span_is_an_empty_plan(library: Library, serve: Serve, clock: FakeClock) -> None:
    library.per_day = 0
    assert await plan(library, serve, clock, limit=10) == []


async def test_a_first_challenge_page_is_waited_out_for_a_while_and_never_read(
    library: Library, serve: Serve, clock: FakeClock
) -> None:
    library.challenges = 1
    assert await plan(library, serve, clock, limit=10)
    assert clock.slept and max(clock.slept) <= 2
    library.challenges = 99
    with pytest.raises(ArchiveBlocked, match="blocks this client"):
        await plan(library, serve, clock, limit=10)


async def test_ignored_dates_are_a_fault_not_data(library: Library, serve: Serve, clock: FakeClock) -> None:
    library.ignores_dates = True
    with pytest.raises(SourceUnavailable, match="ignored the dates"):
        await plan(library, serve, clock, limit=10)


async def test_a_block_parks_the_host_for_the_block_time(library: Library, serve: Serve, clock: FakeClock) -> None:
    sentences: list[str] = []
    library.challenges_from = 1
    library.challenges = 3
    spec = make_spec(block_seconds=3600)
    async with opened(spec, await library.open(serve), clock, notify=sentences.append) as source:
        assert await source.count() == 31
        assert len(await source.plan(5)) == reserve(5)
    assert sum(clock.slept) == pytest.approx(3 * 3600, abs=5)
    assert "parked for 3600 s" in sentences[0] and "other archives go on" in sentences[0]
    assert sentences[-1].endswith("answers again")


async def test_known_pages_are_passed_over(library: Library, serve: Serve, clock: FakeClock) -> None:
    first = await plan(library, serve, clock, limit=1)
    async with opened(make_spec(), await library.open(serve), clock) as source:
        more = await source.plan(1, {item.native_id: item for item in first})
    assert len(first) == len(more) == reserve(1)
    assert not {item.native_id for item in first} & {item.native_id for item in more}


@pytest.mark.parametrize(
    ("results", "count", "told"), [([], "many", "'many'"), ([{"id": "http://www.loc.gov/item/1"}], 1, "none of 1")]
)
async def test_strange_pagination_and_hits_that_are_no_pages_are_corrupt(
    library: Library, serve: Serve, clock: FakeClock, results: list[Any], count: Any, told: str
) -> None:
    library.search_answer = web.json_response({"results": results, "pagination": {"of": count}})
    with pytest.raises(CorruptAnswer, match=told):
        await plan(library, serve, clock, limit=10)


async def test_a_page_becomes_a_document(library: Library, serve: Serve, clock: FakeClock) -> None:
    document = await fetch(library, serve, clock, hit("1900-01-05", 6, page_id="sn1-1900-01-05-ed-1-1270"))
    assert document == Document(
        id="papers:sn1-1900-01-05-ed-1-1270",
        source="papers",
        source_type="historical_newspaper",
        text="THE SUN\nshines",
        url="https://www.loc.gov/resource/sn1/1900-01-05/ed-1/?sp=6",
        title="The sun (New York), 1900-01-05, page 6",
        year=1900,
        date="1900-01-05",
        language="english",
        licence="pd",
        extra={"part_of": "sn1/1900-01-05", "lccn": "sn1", "sequence": "6", "place": "new york"},
    )
    assert library.segments == [SEGMENT]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"s.xml": {"full_text": " \n"}}, "no-text"),
        ({"s.xml": {"height": "1"}}, "no-text"),
        ({}, "corrupt-answer"),
        ({"a.xml": {"full_text": "x"}, "b.xml": {"full_text": "y"}}, "corrupt-answer"),
    ],
)
async def test_a_page_without_text_is_a_reject(
    library: Library, serve: Serve, clock: FakeClock, answer: dict[str, Any], reason: str
) -> None:
    library.text = web.json_response(answer)
    outcome = await fetch(library, serve, clock, hit("1900-01-05"))
    assert isinstance(outcome, Reject)
    assert outcome.reason == reason


async def test_a_page_without_segment_is_looked_up(library: Library, serve: Serve, clock: FakeClock) -> None:
    service = f"https://tile.loc.gov/text-services/word-coordinates-service?segment={SEGMENT}&full_text=1"
    library.records = {
        "1900-01-05": {"page": [{"use": "image"}, {"use": "text", "fulltext_service": service}], "resource": {}},
        "1900-01-06": {"resource": {"fulltext_file": "https://tile.loc.gov/storage-services/page.text.txt"}},
        "1900-01-07": {"resource": {"fulltext_file": "https://evil.example/x"}, "page": None},
    }
    library.plain_texts = {"page.text.txt": "plain\nwords of the page"}
    found = [await fetch(library, serve, clock, hit(f"1900-01-0{day}", image_url=[])) for day in (5, 6, 7, 8)]
    assert [one.text for one in found if isinstance(one, Document)] == ["THE SUN\nshines", "plain\nwords of the page"]
    assert [one.reason for one in found if isinstance(one, Reject)] == ["no-text", "not-found"]
    assert library.segments == [SEGMENT]


@pytest.mark.parametrize(
    ("fields", "search", "texts", "block_seconds"),
    [({}, 18, 135, 3600), ({"api_per_minute": 6, "text_per_minute": 60, "block_seconds": 30}, 6, 60, 30)],
)
def test_the_public_archive_has_limits_of_its_own(
    fields: dict[str, Any], search: float, texts: float, block_seconds: float
) -> None:
    archives, spec = Archives(Connection(), Pace(), Web()), make_spec(**fields)
    assert (60 * archives.rate(spec, "search"), 60 * archives.rate(spec, "texts")) == pytest.approx((search, texts))
    assert archives.client(spec, "search")._block_seconds == block_seconds


async def test_a_429_with_a_pause_beyond_patience_reaches_the_caller(
    library: Library, serve: Serve, clock: FakeClock
) -> None:
    library.text = web.Response(status=429, headers={"Retry-After": "3600"})
    with pytest.raises(ArchiveBusy) as caught:
        await fetch(library, serve, clock, hit("1900-01-05"))
    assert caught.value.retry_after_seconds == 3600


@pytest.mark.parametrize(
    ("fields", "segment"),
    [
        ({"image_url": []}, ""),
        ({}, ""),
        ({"image_url": "https://t/word-coordinates-service?segment=/service/a.xml"}, "/service/a.xml"),
        ({"image_url": ["https://t/word-coordinates-service?segment=/service/../a.xml"]}, ""),
        ({"image_url": ["https://t/word-coordinates-service?segment=http://evil/a.xml"]}, ""),
        (
            {"word_coordinates_url": "https://t/word-coordinates-service?segment=%2Fservice%2Fa.xml&q=x"},
            "/service/a.xml",
        ),
    ],
)
def test_where_the_segment_is_found(fields: dict[str, Any], segment: str) -> None:
    assert find_segment(fields) == segment


def test_a_recorded_hit_is_planned() -> None:
    name = "loc.gov_resource_sn92070146_1924-11-20_ed-1_sp=6__results-element.json"
    item = plan_page(json.loads(recorded(name).read_text("utf-8")))
    assert item is not None
    assert item.native_id == "sn92070146-1924-11-20-ed-1-1270"
    assert item.data["segment"] == SEGMENT
    assert item.data["title"] == "Imperial Valley press (El Centro, Calif.), November 20, 1924, page 6"
    assert item.data["place"] == "el centro, california"


def test_recorded_reduced_hits_are_planned() -> None:
    name = "loc.gov_collections_chronicling-america__q=John-Smith__c=3__at=results,pagination__REDUCED.json"
    answer = json.loads(recorded(name).read_text("utf-8"))
    items = [plan_page(found) for found in answer["results"]]
    assert [item.native_id for item in items if item] == [
        "sn87090149/1844-06-20/ed-1/seq-1",
        "sn84020048/1845-05-03/ed-1/seq-1",
        "sn86075096/1957-10-15/ed-1/seq-26",
    ]
