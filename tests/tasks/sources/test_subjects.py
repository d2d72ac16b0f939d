"""Archives asked for documents on a list of subjects."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from storage.errors import ParameterError
from storage.shard_plan import Item, ShardSpec
from tasks.sources.catalogue import SourceSpec, load_catalogue
from tasks.sources.raw_dataset import read_rejects, request_key
from tasks.sources.shards import SourceDownload
from tasks.sources.source import ASKED_FOR, Document, Reject
from tasks.sources.subject_list import BUNDLED, MOST_SUBJECTS, read_subjects
from tasks.sources.subjects import RowsAbout, about, ask_in_turn, way_of
from tests.tasks.sources import test_chronicling_america as loc
from tests.tasks.sources import test_internet_archive as ia
from tests.tasks.sources.conftest import Serve, make_spec, opened
from tests.tasks.sources.hub_double import make_fields

SHORT, MIDDLING, LONG = 60, 600, 18_000
LIST = ("Halley's comet", "comet", "steam engine", "X-rays")


def hub_spec(**fields: Any) -> SourceSpec:
    return SourceSpec.model_validate(make_fields(subjects=LIST, **fields))


def write(folder: Path, body: str | bytes) -> str:
    path = folder / "subjects.txt"
    path.write_bytes(body if isinstance(body, bytes) else body.encode())
    return str(path)


def test_a_list_holds_a_subject_a_line(tmp_path: Path) -> None:
    body = "\ufeff# Things\n\nsteam  engine # the machine\r\nSteam Engine\nHalley's comet\nC# minor\n"
    assert read_subjects(write(tmp_path, body)) == ("steam engine", "Halley's comet", "C# minor")


def test_the_bundled_list_is_one() -> None:
    assert len(read_subjects(BUNDLED)) == 410


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("comet\n" + "x" * 81, r"line 2 of .*subjects.txt is no subject: 'x+'; .* at most 80"),
        ("???", r"line 1 of .* is no subject: '\?\?\?'"),
        ("co\0met", r"line 1 of .* is no subject: 'co\\x00met'"),
        ("# nothing yet\n", r"holds 0 subjects; write 1 to 2,000"),
        ("\n".join(f"subject {n}" for n in range(MOST_SUBJECTS + 1)), r"holds 2,001 subjects; write 1 to 2,000"),
        (b"caf\xe9", r"is not UTF-8 \(byte 3\); save it as UTF-8"),
        (b"a\n" * 2**20, r"is larger than 1,048,576 bytes"),
    ],
    ids=["too long", "no word", "NUL", "nothing", "too many", "not UTF-8", "too large"],  # a body is long to print
)
def test_what_is_no_list_is_refused_with_the_line(tmp_path: Path, body: str | bytes, told: str) -> None:
    with pytest.raises(ParameterError, match=told):
        read_subjects(write(tmp_path, body))


def test_a_list_that_is_not_there_is_told_with_what_would_do(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"no-list cannot be read \(No such file or directory\); .* or 'bundled'"):
        read_subjects(str(tmp_path / "no-list"))


def test_a_list_belongs_to_the_request_of_those_who_can_be_asked() -> None:
    catalogue = load_catalogue()
    for name, way in {"historical_newspapers": "search", "wikipedia": "rows", "logical_reasoning": "no"}.items():
        spec = catalogue[name]
        assert way_of(spec) == way
        keys = {request_key(about(spec, some), 9) for some in ((), LIST, LIST[:2])}
        assert len(keys) == (1 if way == "no" else 3) and request_key(spec, 9) in keys
    assert way_of(catalogue["historical_newspapers"].model_copy(update={"bulk": True})) == "no"
    assert way_of(make_spec()) == "no"


async def test_subjects_are_dealt_in_turn_up_to_a_cap() -> None:
    async def ask(subject: str, most: int) -> list[Item]:
        asked.append((subject, most))
        return [Item(f"{subject}{n}") for n in range({"a": 90, "b": 2, "c": 0}.get(subject, 40))][:most] + shared

    asked: list[tuple[str, int]] = []
    shared = [Item("shared")]
    items, remark = await ask_in_turn("abcd", 60, ask)
    assert [item.native_id for item in items[:7]] == ["a0", "b0", "shared", "d0", "a1", "b1", "d1"]
    assert Counter(item.data[ASKED_FOR] for item in items) == {"a": 29, "b": 2, "c": 1, "d": 28}
    assert asked == [("a", 30), ("b", 30), ("c", 30), ("d", 30)]
    asked.clear()
    shared = []
    items, remark = await ask_in_turn("abcd", 2, ask)
    assert [item.native_id for item in items] == ["a0", "b0"] and asked == [("a", 10), ("b", 10)]
    items, remark = await ask_in_turn("abcd", 60, ask)
    assert remark == "nothing is found on 1 of 4 subjects: c"


async def test_the_internet_archive_is_searched_for_each_subject(serve: Serve) -> None:
    async def scrape(request: web.Request) -> web.Response:
        asked.append(request.query["q"])
        known = {"steam engine": ["one", "two"], "comet": ["two", "three"]}.get(asked[-1].split('"')[1], [])
        return web.json_response({"items": [{"identifier": name} for name in known], "total": 3})

    asked: list[str] = []
    root = await serve({"/services/search/v1/scrape": scrape})
    spec = ia.make_spec(subjects=["steam engine", 'a "comet"', "comet"])
    async with opened(spec, root) as source:
        items = await source.plan(5)
        new = await source.plan(5, {"one": Item("one")})
        assert await source.count() is None
    assert asked[0] == 'mediatype:texts AND (title:"steam engine" OR subject:"steam engine")'
    assert 'title:"a  comet "' in asked[2], "a list cannot end the phrase that it is quoted in"
    assert [(item.native_id, item.data) for item in items] == [
        ("one", {ASKED_FOR: "steam engine"}),
        ("two", {ASKED_FOR: "comet"}),
        ("three", {ASKED_FOR: "comet"}),
    ]
    assert [item.native_id for item in new] == ["two", "three"]
    assert source.remark == 'nothing is found on 1 of 3 subjects: a "comet"'


async def test_the_library_is_searched_for_each_phrase(serve: Serve) -> None:
    async def search(request: web.Request) -> web.Response:
        asked.append(dict(request.query))
        hits = [loc.hit(f"1900-01-0{day}") for day in range(1, 4)] if request.query["qs"] == "comet" else []
        return web.json_response({"results": hits, "pagination": {"of": len(hits), "total": 1}})

    asked: list[dict[str, str]] = []
    root = await serve({"/collections/chronicling-america/": search})
    async with opened(loc.make_spec(subjects=LIST), root) as source:
        items = await source.plan(2)
    assert [(query["qs"], query["ops"], query["searchType"]) for query in asked] == [
        (subject, "PHRASE", "advanced") for subject in LIST
    ]
    assert {item.data[ASKED_FOR] for item in items} == {"comet"} and len(items) == 3
    assert source.remark == "nothing is found on 3 of 4 subjects: Halley's comet, steam engine, X-rays"


@pytest.mark.parametrize(
    ("title", "text", "length", "subject"),
    [
        ("The Steam-Engine", "It was large.", LONG, "steam engine"),
        ("Comets", "They come.", SHORT, "comet"),
        ("Sky", "Halley\u2019s comet. HALLEY'S COMET, a comet; Halley's comet again.", MIDDLING, "Halley's comet"),
        ("Sky", "An x ray.", SHORT, "X-rays"),
        ("Sky", "A comet, once.", MIDDLING, None),
        ("Sky", "A comet, a comet.", MIDDLING, "comet"),
        ("Sky", "A comet, a comet, a comet.", LONG, None),
        ("Comedy", "Cometary, of an engine of steam.", SHORT, None),
        (None, "", SHORT, None),
    ],
)
def test_a_row_is_about_what_its_title_or_its_text_names(
    title: str | None, text: str, length: int, subject: str | None
) -> None:
    document = Document("s:1", "s", "wiki", text.ljust(length, "."), title=title, extra={"part_of": "x"})
    spec = hub_spec(columns={"title": "title"})
    found = RowsAbout(spec).keep(document)
    if subject is None:
        assert isinstance(found, Reject) and (found.id, found.reason) == ("s:1", "other-subject")
    else:
        assert isinstance(found, Document) and found.extra == {"part_of": "x", ASKED_FOR: subject}
    assert RowsAbout(spec.model_copy(update={"subjects": ()})).keep(document) is document


def test_the_first_line_of_a_text_is_no_title() -> None:
    spec = hub_spec(columns={"title": "@first_line"})
    document = Document("s:1", "s", "wiki", "A comet\n" + "x " * 1500, title="A comet")
    assert isinstance(RowsAbout(spec).keep(document), Reject)


@dataclass
class Rows:
    """A source of rows that are all about comets but every tenth."""

    remark: str = ""
    planned: list[Item] = field(default_factory=list)

    async def fetch(self, item: Item) -> AsyncIterator[Document | Reject]:
        for n in range(100):
            subject = "X-rays" if n % 10 == 0 else "comet"
            yield Document(
                f"s:{item.native_id}-{n}", "s", "wiki", "A text of its own. " * 3, extra={ASKED_FOR: subject}
            )


async def test_no_subject_fills_a_shard_of_rows(tmp_path: Path) -> None:
    spec = hub_spec()
    shard = ShardSpec.of(0, [Item("a"), Item("b")])
    source: Any = Rows()
    outcome = await SourceDownload(source, spec, tmp_path, 2, limit=60).fetch(shard, 60)
    assert outcome.documents == 30 + 20 and outcome.reasons == {"subject-full": 150}
    assert re.match("its shard holds 30 documents", read_rejects(tmp_path, shard)[0].detail)
