from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from aiohttp import web

from storage.errors import CorruptAnswer, ItemUnavailable
from storage.shard_plan import Item
from tasks.sources.catalogue import SourceSpec
from tasks.sources.internet_archive_items import check_item, choose_texts, find_stamps, first
from tasks.sources.source import Document, Reject
from tests.tasks.sources.conftest import FakeClock, Serve, opened, recorded

TEXT = "It is a truth universally acknowledged. \f Ünïcode."


def make_spec(**fields: Any) -> SourceSpec:
    return SourceSpec.model_validate(
        {
            "name": "books",
            "archive": "internet_archive",
            "source_type": "historical_book",
            "trivium": "rhetoric",
            "query": "mediatype:texts",
            "licence": "as stated",
            **fields,
        }
    )


def text_file(name: str, text: str = TEXT, **fields: Any) -> dict[str, Any]:
    body = text.encode()
    md5 = hashlib.md5(body, usedforsecurity=False).hexdigest()
    return {"name": name, "format": "DjVuTXT", "source": "derivative", "size": str(len(body)), "md5": md5, **fields}


def item_of(identifier: str, *files: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    return {"metadata": {"identifier": identifier, "title": "A book", **metadata}, "files": list(files)}


class Archive:
    """A small Internet Archive: search pages by cursor, metadata by identifier, files on a second server."""

    def __init__(self) -> None:
        self.pages: dict[str, dict[str, Any] | list[dict[str, Any]]] = {}
        self.items: dict[str, dict[str, Any] | list[dict[str, Any]]] = {}
        self.files: dict[str, bytes | list[bytes]] = {}
        self.asked: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.store = ""
        self.cursor_needs_no_count = False

    async def open(self, serve: Serve) -> str:
        self.store = await serve({"/file/{path:.*}": self.file})
        return await serve(
            {
                "/services/search/v1/scrape": self.scrape,
                "/metadata/{id}": self.metadata,
                "/download/{path:.*}": self.download,
            }
        )

    async def scrape(self, request: web.Request) -> web.Response:
        self.asked.append(dict(request.query))
        cursor = request.query.get("cursor", "")
        if self.cursor_needs_no_count and "count" in request.query:
            cursor = ""
        answer = self.pages[cursor]
        return web.json_response(answer.pop(0) if isinstance(answer, list) else answer)

    async def metadata(self, request: web.Request) -> web.Response:
        self.paths.append(request.raw_path)
        answer = self.items.get(request.match_info["id"], {})
        return web.json_response(answer.pop(0) if isinstance(answer, list) else answer)

    async def download(self, request: web.Request) -> web.Response:
        self.paths.append(request.raw_path)
        raise web.HTTPFound(f"{self.store}/file{request.raw_path.removeprefix('/download')}")

    async def file(self, request: web.Request) -> web.Response:
        body = self.files.get(request.match_info["path"])
        if body is None:
            raise web.HTTPNotFound
        return web.Response(body=body.pop(0) if isinstance(body, list) else body)


@pytest.fixture
def archive() -> Archive:
    return Archive()


def page(*names: str, cursor: str = "", total: int = 0) -> dict[str, Any]:
    answer: dict[str, Any] = {"items": [{"identifier": name} for name in names], "count": len(names), "total": total}
    return {**answer, "cursor": cursor} if cursor else answer


async def plan(archive: Archive, serve: Serve, clock: FakeClock, limit: int = 100, **fields: Any) -> list[Item]:
    return (await plan_told(archive, serve, clock, limit, **fields))[0]


async def plan_told(
    archive: Archive, serve: Serve, clock: FakeClock, limit: int = 100, **fields: Any
) -> tuple[list[Item], str]:
    async with opened(make_spec(**fields), await archive.open(serve), clock) as source:
        return await source.plan(limit), source.remark


async def fetch(archive: Archive, serve: Serve, clock: FakeClock, identifier: str, **fields: Any) -> Document | Reject:
    async with opened(make_spec(**fields), await archive.open(serve), clock, attempts=3) as source:
        outcomes = [outcome async for outcome in source.fetch(Item(native_id=identifier, url="u"))]
    assert len(outcomes) == 1
    return outcomes[0]


async def test_a_chain_of_cursors_is_followed_to_its_end(archive: Archive, serve: Serve, clock: FakeClock) -> None:
    archive.pages = {
        "": page("a", "b", cursor="c1", total=5),
        "c1": page("c", "b", cursor="c2", total=5),
        "c2": page("d", "e", total=5),
    }
    items = await plan(archive, serve, clock)
    assert [item.native_id for item in items] == ["a", "b", "c", "d", "e"]
    assert items[0].url.endswith("/details/a")
    assert [asked.get("cursor") for asked in archive.asked] == [None, "c1", "c2"]
    assert archive.asked[0]["q"] == "mediatype:texts"
    assert int(archive.asked[0]["count"]) >= 100


async def test_no_more_is_listed_than_needed(archive: Archive, serve: Serve, clock: FakeClock) -> None:
    archive.pages = {"": page(*(f"i{n}" for n in range(100)), cursor="c1", total=100_000)}
    items = await plan(archive, serve, clock, limit=20)
    assert len(items) == 35
    assert len(archive.asked) == 1


async def test_a_total_is_an_estimate(archive: Archive, serve: Serve, clock: FakeClock) -> None:
    for total, remark in [(3, "counts 3 items and lists 2"), (2, ""), (1, ""), ("3", "counts 3"), (None, ""), (-1, "")]:
        archive.pages = {"": page("a", cursor="c1"), "c1": page("b") | {"total": total}}
        archive.asked.clear()
        items, told = await plan_told(archive, serve, clock)
        assert [item.native_id for item in items] == ["a", "b"]
        assert remark in told and bool(remark) == bool(told), total
        assert len(archive.asked) == (3 if remark else 2), "the end is asked for once more"


async def test_a_rest_that_was_lost_in_passing_is_listed(archive: Archive, serve: Serve, clock: FakeClock) -> None:
    archive.pages = {"": [page("a", total=3), page("a", cursor="c1", total=3)], "c1": page("b", "c", total=3)}
    items, told = await plan_told(archive, serve, clock)
    assert [item.native_id for item in items] == ["a", "b", "c"] and told == ""


@pytest.mark.parametrize(
    ("pages", "fault"),
    [
        ({"": page(total=0)}, ""),
        ({"": page(total=6048)}, "counts 6048 items and lists none"),
        ({"": page("a", cursor="c1", total=2), "c1": page("a", cursor="c1", total=2)}, "keeps sending the same page"),
    ],
)
async def test_a_listing_of_nothing_is_an_error_where_items_are_counted_and_so_is_a_circle(
    archive: Archive, serve: Serve, clock: FakeClock, pages: dict[str, Any], fault: str
) -> None:
    archive.pages = pages
    if fault:
        with pytest.raises(CorruptAnswer, match=fault):
            await plan(archive, serve, clock)
    else:
        assert await plan_told(archive, serve, clock) == ([], "")


async def test_a_server_that_ignores_the_cursor_beside_a_count(
    archive: Archive, serve: Serve, clock: FakeClock
) -> None:
    archive.cursor_needs_no_count = True
    archive.pages = {
        "": page("a", cursor="c1", total=3),
        "c1": page("b", cursor="c2", total=3),
        "c2": page("c", total=3),
    }
    assert [item.native_id for item in await plan(archive, serve, clock)] == ["a", "b", "c"]
    assert ["count" in asked for asked in archive.asked] == [True, True, False, False], "which is noticed once"


async def test_an_item_becomes_a_document(archive: Archive, serve: Serve, clock: FakeClock) -> None:
    name = "sub/a b#1_djvu.txt"
    archive.items["x1"] = item_of(
        "x1",
        text_file("small_djvu.txt", "tiny"),
        text_file("hidden_djvu.txt", TEXT * 9, private="true"),
        text_file(name),
        {"name": "x1.pdf", "format": "Text PDF", "size": "9999999"},
        creator=["Ford, D.", "Hough, F."],
        date="[1897]",
        language=["san\n", "eng\n"],
        collection=["americana"],
        part_of="work-7",
        licenseurl="https://example.org/pd",
    )
    # Once with a wrong byte: the checksum tells, the second try is right.
    archive.files["x1/" + name] = [TEXT.replace("truth", "trutb").encode(), TEXT.encode()]
    document = await fetch(archive, serve, clock, "x1")
    assert document == Document(
        id="books:x1",
        source="books",
        source_type="historical_book",
        text=TEXT,
        url="u",
        title="A book",
        author="Ford, D.; Hough, F.",
        year=1897,
        date="[1897]",
        language="san",
        licence="https://example.org/pd",
        extra={"identifier": "x1", "file": name, "collection": ["americana"], "part_of": "work-7"},
    )
    assert "/download/x1/sub/a%20b%231_djvu.txt" in archive.paths


async def test_what_cannot_be_had_has_a_reason(archive: Archive, serve: Serve, clock: FakeClock) -> None:
    good = text_file("g_djvu.txt")
    archive.items = {
        "dark": {"is_dark": True, "files": []},
        "library": item_of("library", good, collection=["inlibrary", "americana"]),
        "stale": item_of("other", good),
        "shapeless": {"metadata": [], "files": {}},
        "late": item_of("late", good, date="1990"),
    }
    for identifier, reason in {
        "dark": "dark",
        "library": "access-restricted",
        "stale": "corrupt-answer",
        "shapeless": "corrupt-answer",
        "late": "outside-years",
    }.items():
        outcome = await fetch(archive, serve, clock, identifier, year_filter={"max": 1928, "unknown": "keep"})
        assert isinstance(outcome, Reject), identifier
        assert (outcome.reason, outcome.id) == (reason, f"books:{identifier}")
    assert not [path for path in archive.paths if "download" in path]


@pytest.mark.parametrize(
    "names",
    [
        ["rome_vol1", "rome_vol2", "rome_vol10"],
        ["Rome Vol. I", "Rome Vol. II", "Rome Vol. IX", "Rome Vol. X", "Rome Vol. XL"],
        ["rome-part-one", "rome-part-two", "rome-part-twelve"],
        ["rome", "rome2", "rome3"],
        ["rome01gibbuoft", "rome02gibbuoft", "rome10gibbuoft"],
        ["First Book of Rome", "Second Book of Rome"],
        ["1. Band Rom", "2. Band Rom", "10. Band Rom"],
        ["Vol 1 - Swann", "Vol 2 - Budding Grove", "Vol 10 - Index"],
        ["rome_v1_p1", "rome_v1_p2", "rome_v2_p1"],
        ["rome1897vol1", "rome1897vol2"],
        ["rome_i", "rome_ii", "rome_iii"],
    ],
)
async def test_all_volumes_of_a_text_are_joined_in_order(
    archive: Archive, serve: Serve, clock: FakeClock, names: list[str]
) -> None:
    files = [f"{name}_djvu.txt" for name in names]
    listed = [text_file(name, f"Text of {name}.") for name in sorted(files, reverse=True)]
    archive.items["x"] = item_of("x", *listed, text_file("cover_djvu.txt", "Cover."))
    archive.files |= {f"x/{name}": f"Text of {name}.".encode() for name in files}
    document = await fetch(archive, serve, clock, "x")
    assert isinstance(document, Document), document
    assert document.text.split("\n\f\n") == [f"Text of {name}." for name in files]
    assert document.extra["volumes"] == files


async def test_a_work_that_lacks_a_volume_is_no_document(archive: Archive, serve: Serve, clock: FakeClock) -> None:
    one, two, three = (text_file(f"rome_vol{number}_djvu.txt", f"{TEXT} {number}") for number in (1, 2, 3))
    archive.files = {f"x/{file['name']}": f"{TEXT} {number}".encode() for number, file in enumerate((one, two), 1)}
    hidden = {**two, "private": "true"}
    unlisted = [{key: value for key, value in file.items() if key != "size"} for file in (one, two)]
    for reason, files, fields in [
        ("not-found", [one, two, three], {}),
        ("private-file", [one, hidden, three], {}),
        ("too-large", [one, {**two, "size": "1000"}], {"max_file_bytes": 1050}),
        ("too-large", unlisted, {"max_file_bytes": 1024}),
        ("too-many-texts", [text_file(f"issue{number}_djvu.txt", str(number)) for number in range(101)], {}),
    ]:
        archive.items["x"] = item_of("x", *files)
        if files is unlisted:
            archive.files = {f"x/{file['name']}": b"x" * 600 for file in files}
            for file in files:
                file.pop("md5")
        outcome = await fetch(archive, serve, clock, "x", **fields)
        assert isinstance(outcome, Reject), reason
        assert outcome.reason == reason


async def test_a_volume_that_breaks_off_costs_the_others_nothing(
    archive: Archive, serve: Serve, clock: FakeClock
) -> None:
    one, two = (text_file(f"rome_vol{number}_djvu.txt", f"{TEXT} {number}") for number in (1, 2))
    archive.items["x"] = item_of("x", one, two)
    broken = [b"broken"] * 3
    archive.files = {"x/rome_vol1_djvu.txt": [f"{TEXT} 1".encode()], "x/rome_vol2_djvu.txt": broken}
    async with opened(make_spec(), await archive.open(serve), clock, attempts=3) as source:
        (first_try,) = [outcome async for outcome in source.fetch(Item(native_id="x"))]
        broken.append(f"{TEXT} 2".encode())
        (second_try,) = [outcome async for outcome in source.fetch(Item(native_id="x"))]
    assert isinstance(first_try, Reject) and first_try.reason == "corrupt-answer"
    assert isinstance(second_try, Document) and second_try.text == f"{TEXT} 1\n\f\n{TEXT} 2"
    assert sum("vol1" in path for path in archive.paths) == 1


def test_of_copies_of_a_volume_one_counts() -> None:
    def chosen(*files: dict[str, Any]) -> list[str]:
        return [file.name.removesuffix("_djvu.txt") for file in choose_texts({"files": list(files)})]

    def file(name: str, size: int, **fields: Any) -> dict[str, Any]:
        return {"name": f"{name}_djvu.txt", "format": "DjVuTXT", "size": str(size), **fields}

    assert chosen(file("a vol 1", 10), file("a-vol-1_bw", 12), file("a vol 2", 5)) == ["a-vol-1_bw", "a vol 2"]
    assert chosen(file("a1", 10, md5="x"), file("a2", 10, md5="x")) == ["a1"]
    assert chosen(file("a vol 1", 10), file("a vol 2", 10), file("a", 20)) == ["a"], "the whole beside its parts"
    assert chosen(file("a1897", 20), file("a1897_v1", 10), file("a1897_v2", 9)) == ["a1897"]
    assert chosen(file("a", 10), file("a vol 2", 9)) == ["a", "a vol 2"], "a first volume without a number"
    assert chosen(file("a vol 1 A-K", 10), file("a vol 1 L-Z", 10)) == ["a vol 1 A-K", "a vol 1 L-Z"]
    assert chosen(file("apology", 10), file("crito", 20), file("phaedo", 15)) == ["crito"], "three works"
    assert chosen(file("a vol 1", 10), file("a-vol-1_copy", 10, private="true"), file("a vol 2", 9)) == [
        "a vol 1",
        "a vol 2",
    ]


@pytest.mark.parametrize(
    ("fields", "year", "extra"),
    [
        ({"date": "1929-1933"}, 1933, {"year_begin": 1929, "year_end": 1933}),
        ({"date": "18--"}, 1899, {"year_begin": 1800, "year_end": 1899}),
        ({"date": "1929-", "year": "1929"}, None, {"year_begin": 1929, "year_end": None}),
        ({"date": "n.d.", "year": "1897"}, 1897, {}),
        ({"date": "MDCCCXC"}, 1890, {}),
    ],
)
async def test_the_years_of_an_item_are_kept(
    archive: Archive, serve: Serve, clock: FakeClock, fields: dict[str, str], year: int | None, extra: dict[str, Any]
) -> None:
    archive.items["x"] = item_of("x", text_file("x_djvu.txt"), **fields)
    archive.files["x/x_djvu.txt"] = TEXT.encode()
    document = await fetch(archive, serve, clock, "x", year_filter={"max": 1933, "unknown": "keep"})
    assert isinstance(document, Document)
    assert (document.year, document.date) == (year, fields["date"])
    assert {name: value for name, value in document.extra.items() if name.startswith("year_")} == extra
    if year:
        outcome = await fetch(archive, serve, clock, "x", year_filter={"max": year - 1})
        assert isinstance(outcome, Reject) and outcome.reason == "outside-years"


async def test_an_item_that_vanishes_while_it_is_read_is_a_reject(
    archive: Archive, serve: Serve, clock: FakeClock
) -> None:
    there = item_of("moved", text_file("old_djvu.txt"), title="Once")
    renamed = item_of("moved", text_file("new_djvu.txt"), title="Now")
    for again, reason in {
        "removed": {},
        "darkened": {"is_dark": True},
        "lent": renamed | {"metadata": {"identifier": "moved", "access-restricted-item": "true"}},
        "shapeless": {"metadata": {}},
        "unmoved": there,
    }.items():
        archive.items["moved"] = [there, reason]
        outcome = await fetch(archive, serve, clock, "moved")
        assert isinstance(outcome, Reject), again
        expected = {"darkened": "dark", "lent": "access-restricted", "shapeless": "corrupt-answer"}
        assert outcome.reason == expected.get(again, "not-found"), again
    archive.items["moved"] = [there, renamed]
    archive.files["moved/new_djvu.txt"] = TEXT.encode()
    document = await fetch(archive, serve, clock, "moved")
    assert isinstance(document, Document)
    assert (document.title, document.extra["file"]) == ("Now", "new_djvu.txt")


def test_stamps_of_digitisers_are_recorded_where_they_stand() -> None:
    text = "Digitized by the Internet Archive\nin 2008 with funding from\n\nTHE HISTORY\n" + "x" * 30_000
    assert find_stamps(text) == {"internet-archive": 0}
    assert find_stamps("p. 1\nDIGITIZED BY GOOGLE") == {"google": 5}
    assert find_stamps("x" * 30_000 + "Digitized by Google") == find_stamps("The history of Google") == {}


@pytest.mark.parametrize("name", ["bhagavadgitawith00londiala", "in.ernet.dli.2015.386852", "journalofexpedit00ford"])
def test_recorded_items_have_a_text(name: str) -> None:
    answer = json.loads(recorded(f"archive.org_metadata_{name}.json").read_text("utf-8"))
    metadata = check_item(answer, name)
    (file,) = choose_texts(answer)
    assert file.name.endswith("_djvu.txt")
    assert len(file.md5 or "") == 32
    assert first(metadata["title"])


def test_a_recorded_collection_has_none() -> None:
    answer = json.loads(recorded("archive.org_metadata_nasa.json").read_text("utf-8"))
    check_item(answer, "nasa")
    with pytest.raises(ItemUnavailable, match="no-text"):
        choose_texts(answer)


async def test_a_recorded_search_is_listed(archive: Archive, serve: Serve, clock: FakeClock) -> None:
    name = "archive.org_services_search_v1_scrape__q=collection-nasa.json"
    answer = json.loads(recorded(name).read_text("utf-8"))
    archive.pages = {"": answer, answer["cursor"]: page(total=100)}
    items = await plan(archive, serve, clock, limit=50)
    assert items[0].native_id == "00-042-154"
    assert len(items) == 72
    # The recording asks for a second page although all 100 items are on the first; an empty last page is fine.
    assert len(await plan(archive, serve, clock, limit=500)) == 100
