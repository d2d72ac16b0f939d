from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from storage.errors import ArchiveBusy, SourceUnavailable
from storage.parquet import read_shard
from storage.schemas import RAW_SCHEMA, REJECT_SCHEMA
from storage.shard_plan import Item, ShardSpec
from tasks.sources import raw_dataset
from tasks.sources.catalogue import load_catalogue
from tasks.sources.raw_dataset import read_outcome, request_key
from tasks.sources.shards import SourceDownload, items_per_shard
from tasks.sources.source import Document, Reject
from tests.tasks.sources.conftest import make_spec

Answer = Callable[[Item], list[Document | Reject]]


def document(name: str, text: str = "A text that is long enough.", **fields: Any) -> Document:
    return Document(id=f"s:{name}", source="s", source_type="wiki", text=text, **fields)


class Memory:
    """A source whose items take the longer the earlier they come."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.started: list[str] = []
        self.running = self.most_running = 0

    remark = ""

    async def count(self) -> int | None:
        return None

    async def plan(self, limit: int, known: object = None) -> list[Item]:
        return []

    async def fetch(self, item: Item) -> AsyncIterator[Document | Reject]:
        self.started.append(item.native_id)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            for _ in range(3 * (10 - len(self.started))):
                await asyncio.sleep(0)
            for outcome in self.answer(item):
                yield outcome
        finally:
            self.running -= 1


def shard_of(*names: str) -> ShardSpec:
    return ShardSpec.of(3, [Item(native_id=name) for name in names])


def download(folder: Path, source: Memory, concurrency: int = 2, **fields: Any) -> SourceDownload:
    return SourceDownload(source, make_spec(**fields), folder, concurrency)


def one(item: Item) -> list[Document | Reject]:
    return [document(item.native_id)]


async def run(
    folder: Path, answer: Answer, *names: str, room: int = 100, concurrency: int = 3, **fields: Any
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    shard = shard_of(*names)
    outcome = await download(folder, Memory(answer), concurrency, **fields).fetch(shard, room)
    rows = read_shard(folder / shard.file, RAW_SCHEMA).to_pylist()
    rejects = read_shard(folder / shard.rejects_file, REJECT_SCHEMA).to_pylist()
    assert (outcome.documents, outcome.rejects) == (len(rows), len(rejects))
    assert sum(outcome.reasons.values()) == len(rejects)
    assert outcome == read_outcome(folder, shard)
    return rows, rejects


async def test_documents_keep_the_order_of_the_items(tmp_path: Path) -> None:
    names = [f"i{n}" for n in range(8)]
    source = Memory(one)
    shard = shard_of(*names)
    assert not shard.is_finished(tmp_path)
    outcome = await download(tmp_path, source, 3).fetch(shard, 100)
    assert shard.is_finished(tmp_path)
    assert (outcome.file, outcome.documents, outcome.reasons) == ("shard-00003.parquet", 8, {})
    assert outcome.bytes == (tmp_path / shard.file).stat().st_size
    ids = read_shard(tmp_path / shard.file, RAW_SCHEMA).column("id").to_pylist()
    assert ids == [f"s:{name}" for name in names]
    assert source.most_running == 3
    assert source.running == 0


async def test_a_full_shard_asks_for_no_more(tmp_path: Path) -> None:
    source = Memory(one)
    shard = shard_of(*(f"i{n}" for n in range(9)))
    outcome = await download(tmp_path, source, 2).fetch(shard, 3)
    assert outcome.documents == 3
    assert len(source.started) < 9
    assert source.running == 0
    rows, _ = await run(tmp_path, lambda item: [document(f"{item.native_id}{n}") for n in range(4)], "a", "b", room=6)
    assert [row["id"] for row in rows] == ["s:a0", "s:a1", "s:a2", "s:a3", "s:b0", "s:b1"]
    rows, rejects = await run(tmp_path, one, "a", room=0)
    assert (rows, rejects) == ([], [])


async def test_a_shard_may_be_empty(tmp_path: Path) -> None:
    assert await run(tmp_path, lambda item: [], "a", "b") == ([], [])
    assert shard_of("a", "b").is_finished(tmp_path)


def test_shards_are_of_a_size_that_may_be_lost() -> None:
    assert all(1 <= items_per_shard(spec) <= 200 for spec in load_catalogue().values())


async def test_the_columns_of_a_document(tmp_path: Path) -> None:
    text = "Cafe\u0301 with NUL\0 and a lone \ud800 surrogate."
    full = document("x", text, title=" A\n title\0 ", year=1900, extra={"part_of": "w", "n": 1})
    (row,), _ = await run(tmp_path, lambda item: [full], "x")
    assert row["text"] == "Cafe\u0301 with NUL and a lone ? surrogate."  # repaired, but not composed
    assert row["sha256"] == hashlib.sha256(row["text"].encode()).hexdigest()
    assert (row["title"], row["year"], row["author"]) == ("A title", 1900, None)
    assert row["year_evidence"] == "metadata"
    assert json.loads(row["extra"]) == {"part_of": "w", "n": 1}
    assert row["fetched_at"].tzinfo is not None


async def test_bounds_and_duplicates_become_rejects(tmp_path: Path) -> None:
    def answer(item: Item) -> list[Document | Reject]:
        return [
            document("same"),
            document("same"),
            document("short", "   tiny   "),
            document("long", "x" * 500),
            Reject("s:gone", "u", "not-found", "it is gone", 2),
        ]

    rows, rejects = await run(tmp_path, answer, "a", max_text_chars=100)
    assert [row["id"] for row in rows] == ["s:same"]
    assert [(reject["id"], reject["reason"], reject["attempts"]) for reject in rejects] == [
        ("s:same", "duplicate-id", 1),
        ("s:short", "too-short", 1),
        ("s:long", "too-large", 1),
        ("s:gone", "not-found", 2),
    ]


def silent(*names: str) -> Answer:
    def answer(item: Item) -> list[Document | Reject]:
        if item.native_id in names:
            return [Reject(f"s:{item.native_id}", None, "archive-busy", "answered 503", 5)]
        return one(item)

    return answer


async def test_one_silent_item_is_its_own_fault(tmp_path: Path) -> None:
    rows, rejects = await run(tmp_path, silent("b", "c"), "a", "b", "c", "d")
    assert (len(rows), [reject["reason"] for reject in rejects]) == (2, ["archive-busy"] * 2)


async def test_a_silent_archive_fails_the_shard(tmp_path: Path) -> None:
    names = [f"n{number}" for number in range(20)]
    with pytest.raises(ArchiveBusy, match="20 items in a row could not be fetched for now; answered 503"):
        await download(tmp_path, Memory(silent(*names)), 2).fetch(shard_of("first", *names), 100)
    assert not list(tmp_path.iterdir())


async def test_failed_items_are_fetched_again_alone(tmp_path: Path) -> None:
    shard = shard_of("a", "b", "c", "d")

    def answer(item: Item) -> list[Document | Reject]:
        if item.native_id == "d":
            return [Reject("s:d", None, "access-restricted")]
        return silent("b", "c")(item)

    await download(tmp_path, Memory(answer), 2).fetch(shard, 3)
    assert download(tmp_path, Memory(one)).lacks_documents(shard)
    source = Memory(silent("c"))
    outcome = await download(tmp_path, source, 2).retry(shard)
    assert (source.started, outcome.documents) == (["b", "c"], 2)
    assert outcome.reasons == {"access-restricted": 1, "archive-busy": 1}
    assert shard.is_whole(tmp_path)
    outcome = await download(tmp_path, Memory(one), 2).retry(shard)
    ids = read_shard(tmp_path / shard.file, RAW_SCHEMA).column("id").to_pylist()
    assert (ids, outcome.reasons) == (["s:a", "s:b", "s:c"], {"access-restricted": 1})
    assert not download(tmp_path, Memory(one)).lacks_documents(shard)


async def test_a_retry_that_died_half_way_doubles_nothing(tmp_path: Path) -> None:
    shard = shard_of("a", "b")
    await download(tmp_path, Memory(silent("b")), 2).fetch(shard, 10)
    before = (tmp_path / shard.rejects_file).read_bytes()
    await download(tmp_path, Memory(one), 2).retry(shard)
    (tmp_path / shard.rejects_file).write_bytes(before)  # as if the process had died before writing it
    source = Memory(one)
    outcome = await download(tmp_path, source, 2).retry(shard)
    assert (source.started, outcome.documents, outcome.rejects) == ([], 2, 0)


async def test_long_texts_go_to_disk_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw_dataset, "BUFFER_CHARS", 1000)
    rows, _ = await run(tmp_path, lambda item: [document(item.native_id, item.native_id * 400)], *"abcdefg", room=5)
    assert [row["text"] for row in rows] == [name * 400 for name in "abcde"]
    assert not shard_of(*"abcdefg").is_whole(tmp_path)
    assert shard_of(*"abcdefg").is_finished(tmp_path)


async def test_other_languages_are_rejected_when_some_are_named(tmp_path: Path) -> None:
    languages = {"a": "English", "b": "ger", "c": None, "d": "eng"}
    rows, rejects = await run(
        tmp_path, lambda item: [document(item.native_id, language=languages[item.native_id])], *"abcd", languages=["en"]
    )
    assert [row["id"] for row in rows] == ["s:a", "s:c", "s:d"]
    assert [(reject["id"], reject["reason"]) for reject in rejects] == [("s:b", "other-language")]


async def test_a_source_that_ends_leaves_nothing_behind(tmp_path: Path) -> None:
    def answer(item: Item) -> list[Document | Reject]:
        if item.native_id == "b":
            raise SourceUnavailable("gated")
        return one(item)

    source = Memory(answer)
    with pytest.raises(SourceUnavailable, match="gated"):
        await download(tmp_path, source, 4).fetch(shard_of("a", "b", "c", "d"), 100)
    assert source.running == 0
    assert not list(tmp_path.iterdir())


def test_the_request_key_ignores_pace_and_remarks() -> None:
    spec = load_catalogue()["historical_newspapers"]
    key = request_key(spec, 100)
    for update in (
        {"api_per_minute": 60.0},
        {"text_per_minute": 9.0},
        {"note": "x"},
        {"target": 5},
        {"optional": True},
    ):
        assert request_key(spec.model_copy(update=update), 100) == key
    for update in (
        {"snapshot": "2026-12"},
        {"front_pages_only": True},
        {"source_type": "unknown"},
        {"max_text_chars": 9},
    ):
        assert request_key(spec.model_copy(update=update), 100) != key
    assert request_key(spec, 101) != key
    # A key that keeps its default is no part of the request, so that new keys leave old downloads as they are.
    assert request_key(spec.model_copy(update={"front_pages_only": False}), 100) == key
    assert request_key(load_catalogue()["historical_newspapers"], 100) == key


async def test_a_shard_cut_short_keeps_what_the_archive_has_withdrawn(tmp_path: Path) -> None:
    shard = shard_of("a", "b", "c", "d")
    await download(tmp_path, Memory(one), 1).fetch(shard, 2)

    def withdrawn(item: Item) -> list[Document | Reject]:
        return [Reject("s:a", None, "dark")] if item.native_id == "a" else one(item)

    source = Memory(withdrawn)
    outcome = await download(tmp_path, source, 1).retry(shard, 1)
    assert (outcome.documents, shard.is_whole(tmp_path)) == (3, False)
    outcome = await download(tmp_path, source, 1).retry(shard, 5)
    ids = read_shard(tmp_path / shard.file, RAW_SCHEMA).column("id").to_pylist()
    assert (ids, outcome.rejects, shard.is_whole(tmp_path)) == (["s:a", "s:b", "s:c", "s:d"], 0, True)
    assert "a" not in source.started


async def test_failed_items_that_no_room_was_left_for_wait_on(tmp_path: Path) -> None:
    shard = shard_of("a", "b", "c")
    await download(tmp_path, Memory(silent("a", "b", "c")), 1).fetch(shard, 3)
    outcome = await download(tmp_path, Memory(one), 1).retry(shard, 1)
    assert (outcome.documents, outcome.reasons) == (1, {"archive-busy": 2})
    assert download(tmp_path, Memory(one)).lacks_documents(shard)


async def test_ids_are_compared_as_they_are_stored(tmp_path: Path) -> None:
    rows, rejects = await run(tmp_path, one, "a b", "a  b")
    assert ([row["id"] for row in rows], [row["reason"] for row in rejects]) == (["s:a b"], ["duplicate-id"])
