from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from tasks.sources.catalogue import SourceSpec, load_catalogue
from tasks.sources.rows import RangeReader, columns_of, first_line, map_row, pick
from tasks.sources.source import Document, Reject

CATALOGUE = load_catalogue()


def mapped(name: str, row: dict[str, Any], **fields: Any) -> Document | Reject:
    spec = CATALOGUE[name]
    if fields:
        spec = SourceSpec.model_validate({**spec.model_dump(exclude_unset=True), **fields})
    return map_row(row, 7, spec, 2026, origin="https://hub/page")


def document(name: str, row: dict[str, Any], **fields: Any) -> Document:
    outcome = mapped(name, row, **fields)
    assert isinstance(outcome, Document)
    return outcome


def patent(**fields: Any) -> dict[str, Any]:
    return {
        "id": "US-1327908-A",
        "text": "\nWATER-METER.\nBe it known that I have invented a meter.",
        "source": "USPTO",
        "created": "1918-05-02",
        "metadata": {"license": "Public Domain", "language": "en", "publication_date": "1920-01-13"},
        **fields,
    }


def test_a_patent_row() -> None:
    found = document("us_patents", patent())
    assert found.id == "us_patents:US-1327908-A"
    assert (found.title, found.year, found.year_evidence, found.date) == (
        "WATER-METER.",
        1920,
        "metadata",
        "1920-01-13",
    )
    assert (found.licence, found.language, found.url) == ("Public Domain", "en", "https://hub/page")
    assert found.source_type == "patent_pre1970"


@pytest.mark.parametrize(
    ("metadata", "created", "outcome"),
    [
        ({"publication_date": None}, "1918-05-02", 1918),
        ({"publication_date": 0}, "1918-05-02", 1918),
        ({"publication_date": 19200113}, "1918-05-02", 1920),
        ({"publication_date": "1970-01-06"}, "1968-05-02", "outside-years"),
        ({}, None, "missing-year"),
        (None, "", "missing-year"),
    ],
)
def test_patents_are_kept_by_their_year(metadata: Any, created: Any, outcome: int | str) -> None:
    found = mapped("us_patents", patent(metadata=metadata, created=created))
    assert (found.year if isinstance(found, Document) else found.reason) == outcome


def test_the_other_row_shapes_of_the_catalogue() -> None:
    arxiv = document("arxiv_preprints", {"text": "On  the zeros\nof zeta", "label": 3})
    assert (arxiv.id, arxiv.title, arxiv.year, arxiv.year_evidence) == (
        "arxiv_preprints:row-7",
        "On the zeros",
        None,
        "none",
    )
    fallacy = document("logical_reasoning", {"inputs": "All A are B. Valid?", "targets": ["Invalid"], "idx": 1})
    assert (fallacy.text, fallacy.title) == ("All A are B. Valid?\nInvalid", None)
    question = {"question": "What melts?", "support": "Ice melts at 0 degrees.", "correct_answer": "ice"}
    science = document("scientific_papers", question)
    assert (science.text, science.title) == ("Ice melts at 0 degrees. ice", "What melts?")
    assert (
        document("news_summaries", {"article": "LONDON. It rains.", "highlights": "rain", "id": "4"}).id
        == "news_summaries:4"
    )
    advice = document("medical_guidelines", {"instruction": "i", "input": "Drink water?", "output": "Yes, do."})
    assert (advice.title, advice.text) == ("Drink water?", "Yes, do.")
    wiki = document("wikipedia", {"id": "12", "url": "https://w/Ice", "title": "Ice", "text": "Ice is cold."})
    assert (wiki.url, wiki.title) == ("https://w/Ice", "Ice")
    assert document("big_patent", {"description": "A meter.", "abstract": "x"}).text == "A meter."
    speech = {
        "speech_id": 9,
        "text": "Mr. Speaker",
        "date": datetime(1999, 3, 2, tzinfo=UTC),
        "chamber": "H",
        "speaker": "A",
    }
    government = document("government_documents", speech)
    assert (government.year, government.date, government.author, government.extra) == (
        1999,
        "1999-03-02",
        "A",
        {"chamber": "H"},
    )


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("scientific_papers", {"question": "q", "support": "", "correct_answer": "a"}),
        ("scientific_papers", {"question": "q", "correct_answer": "a"}),
        ("logical_reasoning", {"inputs": "x", "targets": []}),
        ("wikipedia", {"text": None}),
        ("wikipedia", {"text": " \n"}),
        ("wikipedia", {"text": 5}),
        ("wikipedia", {}),
    ],
)
def test_rows_without_text_are_rejects(name: str, row: dict[str, Any]) -> None:
    found = mapped(name, row)
    assert isinstance(found, Reject)
    assert found.reason == "missing-text"


def test_part_of_and_year_may_be_mapped_by_the_user() -> None:
    columns = {"text": "text", "part_of": "doc_id", "year": "year", "extra": ["kind"]}
    found = document(
        "wikipedia", {"text": "t", "doc_id": "w7", "year": 2002, "kind": "k", "none": None}, columns=columns
    )
    assert (found.year, found.extra) == (2002, {"part_of": "w7", "kind": "k"})


def test_pick_walks_columns_paths_and_alternatives() -> None:
    row = {"a": {"b": ["x", {"c": 1}]}, "p.q": "dotted", "empty": "", "zero": 0}
    assert pick(row, "a.b.0") == "x"
    assert pick(row, "a.b.1.c") == 1
    assert pick(row, "p.q") == "dotted"
    assert pick(row, ("empty", "a.b.0")) == "x"
    assert pick(row, "zero") == 0
    assert pick(row, "{a.b.0}-{a.b.1.c}") == "x-1"
    for path in ("a.b.9", "a.x.y", "empty", "", "nothing", "{a.b.0}{nothing}"):
        assert pick(row, path) is None


def test_the_columns_that_a_mapping_reads() -> None:
    assert columns_of(CATALOGUE["us_patents"].columns) == {"text", "metadata", "created", "id"}
    assert columns_of(CATALOGUE["logical_reasoning"].columns) == {"inputs", "targets"}


def test_first_line_is_cut_at_a_word() -> None:
    assert first_line("\n \n A  title \nmore") == "A title"
    assert first_line(" \n") is None
    line = first_line("word " * 60)
    assert line is not None
    assert len(line) <= 120
    assert line.endswith("word")
    assert first_line("x" * 500) == "x" * 120


class Stream:
    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.opened: list[int] = []
        self.closed = 0

    def open_at(self, stream: str, start: int) -> Iterator[int]:
        self.opened.append(start)
        try:
            yield from range(start, self.rows)
        finally:
            self.closed += 1


async def test_consecutive_ranges_open_the_stream_once() -> None:
    stream = Stream(10)
    reader = RangeReader(stream.open_at)
    ranges = await asyncio.gather(*(reader.read("s", start, 4) for start in (0, 4, 8, 12)))
    assert ranges == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9], []]
    assert stream.opened == [0]
    await reader.close()
    assert stream.closed == 1


async def test_another_range_opens_it_anew() -> None:
    stream = Stream(10)
    reader = RangeReader(stream.open_at)
    assert await reader.read("s", 4, 2) == [4, 5]
    assert await reader.read("s", 0, 2) == [0, 1]
    assert await reader.read("t", 2, 2) == [2, 3]
    assert stream.opened == [4, 0, 2]
    await reader.close()
    assert stream.closed == 3


async def test_past_the_known_end_nothing_is_opened() -> None:
    stream = Stream(3)
    reader = RangeReader(stream.open_at)
    await reader.read("s", 0, 5)
    assert await reader.read("s", 50, 5) == []
    assert stream.opened == [0]


async def test_a_cancelled_reader_leaves_the_stream_whole() -> None:
    going, entered = threading.Event(), threading.Event()

    def slow(stream: str, start: int) -> Iterator[int]:
        for row in range(start, 10):
            entered.set()
            going.wait(10)
            yield row

    reader = RangeReader(slow)
    first = asyncio.create_task(reader.read("s", 0, 2))
    second = asyncio.create_task(reader.read("s", 2, 2))
    await asyncio.to_thread(entered.wait, 10)
    first.cancel()
    await asyncio.sleep(0)
    assert not second.done()
    going.set()
    assert await second == [2, 3]
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_an_error_after_cancelling_is_not_left_behind() -> None:
    going, entered = threading.Event(), threading.Event()

    def late(stream: str, start: int) -> Iterator[int]:
        entered.set()
        going.wait(10)
        raise OSError("too late")
        yield 0

    async def give_up() -> None:
        reading = asyncio.create_task(RangeReader(late).read("s", 0, 2))
        await asyncio.to_thread(entered.wait, 10)
        reading.cancel()
        await asyncio.sleep(0)
        going.set()
        await asyncio.wait([reading])
        assert reading.cancelled()

    faults: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context["message"]))
    await give_up()
    await asyncio.sleep(0)
    gc.collect()
    assert faults == []


async def test_an_error_closes_the_stream() -> None:
    def broken(stream: str, start: int) -> Iterator[int]:
        yield from range(start, 2)
        raise OSError("broken pipe")

    reader = RangeReader(broken)
    with pytest.raises(OSError, match="broken pipe"):
        await reader.read("s", 0, 5)
    assert await reader.read("s", 0, 2) == [0, 1]
