"""An archive at its worst: whatever can be had arrives exactly once and byte-identical, the rest with its reason."""

from __future__ import annotations

import asyncio
import resource
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from storage.parquet import read_shard
from storage.schemas import RAW_SCHEMA, REJECT_SCHEMA
from storage.shard_plan import ShardSpec
from tasks.sources.catalogue import SourceSpec
from tasks.sources.shards import SourceDownload
from tests.tasks.sources.conftest import FakeClock, Serve, opened
from tests.tasks.sources.hostile import (
    HostileArchive,
    HostileItem,
    bomb,
    corrupt,
    drop,
    hang,
    nonsense,
    page,
    status,
    truncate,
)

SPEC = {
    "name": "books",
    "archive": "internet_archive",
    "source_type": "historical_book",
    "trivium": "rhetoric",
    "query": "mediatype:texts",
}


def text(name: str) -> bytes:
    return f"The history of {name}.\r\n\r\n  Two  blanks, a tab\t, a broken-\nword, e\u0301. ".encode() * 50


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def item(subject: str, **fields: Any) -> HostileItem:
    return HostileItem(text(subject), **fields)


OBTAINABLE = {
    "calm": item("calm"),
    "burst": item("burst", about_metadata=[status(code) for code in (500, 502, 503, 504)]),
    "slow-down-seconds": item("slow-down-seconds", about_metadata=[status(429, 7)]),
    "slow-down-date": item("slow-down-date", about_file=[status(429, 9, as_date=True)]),
    "slow-down-unnamed": item("slow-down-unnamed", about_metadata=[status(429)]),
    "busy-named": item("busy-named", about_file=[status(503, 5)]),
    "reset": item("reset", about_metadata=[drop], about_file=[drop, drop]),
    "truncated": item("truncated", about_metadata=[nonsense], about_file=[truncate, truncate]),
    "wrong-once": item("wrong-once", about_file=[corrupt]),
    "hanging": item("hanging", about_file=[hang]),
    "web-page-once": item("web-page-once", about_metadata=[page]),
    "blanks-and-hash": item("blanks-and-hash", name="sub dir/a b#c%20d.txt"),
    "encoded-dots": item("encoded-dots", name="a/%2e%2e/b.txt"),
    "lists": item("lists", metadata={"title": ["One", "Two"], "creator": ["A", "B"], "language": None, "date": None}),
    "years": item("years", metadata={"date": "1897-1901"}),
    "bracketed": item("bracketed", metadata={"date": "[1897]"}),
    "circa": item("circa", metadata={"date": "c1897"}),
    "no-date": item("no-date", metadata={"date": "n.d.", "title": None}),
}
LOST = {
    "wrong-for-ever": (item("x", about_file=[corrupt], for_ever=True), "corrupt-answer"),
    "busy-for-ever": (item("x", about_file=[status(503)], for_ever=True), "archive-busy"),
    "bomb": (item("x", about_metadata=[bomb], for_ever=True), "too-large"),
    "dots": (item("x", name="../../../etc/passwd"), "bad-file-name"),
    "absolute": (item("x", name="/etc/passwd"), "bad-file-name"),
    "lent": (item("x", metadata={"access-restricted-item": "true"}), "access-restricted"),
    "private": (item("x", file={"private": "true"}), "private-file"),
    "large": (item("x", file={"size": str(2**40)}), "too-large"),
    "refused": (item("x", about_file=[status(401)], for_ever=True), "access-restricted"),
    "scanned-only": (item("x", file={"format": "PDF"}), "no-text"),
    "tiny": (HostileItem(b"  n/a "), "too-short"),
}


async def test_everything_obtainable_arrives_once_and_byte_identical(
    serve: Serve, clock: FakeClock, tmp_path: Path
) -> None:
    calm = {f"calm-{number:02}": item(f"calm-{number}") for number in range(40)}
    archive = HostileArchive({**OBTAINABLE, **{name: lost for name, (lost, _) in LOST.items()}, **calm})
    root = await serve(archive.routes())
    spec = SourceSpec.model_validate(SPEC)
    sentences: list[str] = []
    peak_before = peak_bytes()
    async with opened(
        spec, root, clock, tmp_path / "unfinished", silence_seconds=0.5, notify=sentences.append
    ) as source:
        items = [*(await source.plan(100))]
        # Identifiers come from the archive, so they are as little trusted as file names.
        items += [replace(items[0], native_id=name) for name in ("../x", "%2e%2e", "/etc", "gone")]
        shard = ShardSpec.of(0, items)
        await SourceDownload(source, spec, tmp_path / "books", 10).fetch(shard, 1000)
    rows = read_shard(tmp_path / "books" / shard.file, RAW_SCHEMA).to_pylist()
    found = {row["id"].removeprefix("books:"): row["text"].encode() for row in rows}
    assert len(found) == len(rows)
    assert found == {name: text(name.replace("calm-0", "calm-")) for name in {**OBTAINABLE, **calm}}
    rejects = read_shard(tmp_path / "books" / shard.rejects_file, REJECT_SCHEMA).to_pylist()
    assert {reject["id"].removeprefix("books:"): reject["reason"] for reject in rejects} == {
        **{name: reason for name, (_, reason) in LOST.items()},
        **dict.fromkeys(("../x", "%2e%2e", "/etc"), "bad-identifier"),
        "gone": "not-found",
    }
    assert all(reject["attempts"] >= 5 for reject in rejects if reject["reason"] in ("corrupt-answer", "archive-busy"))
    years = {row["id"].removeprefix("books:"): row["year"] for row in rows}
    assert (years["years"], years["bracketed"], years["circa"]) == (1901, 1897, 1897)
    assert years["no-date"] is None and years["lists"] is None
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == sorted(
        (shard.file, shard.rejects_file)
    )
    assert peak_bytes() - peak_before < 300e6, "the bomb alone is larger"
    assert any("parked" in sentence for sentence in sentences)


async def test_a_host_that_is_down_for_ten_minutes_costs_ten_minutes(
    serve: Serve, clock: FakeClock, tmp_path: Path
) -> None:
    archive = HostileArchive({f"calm-{number:02}": item(f"calm-{number}") for number in range(60)})
    root = await serve(archive.routes())
    spec = SourceSpec.model_validate(SPEC)
    down = {"from": 0.0}

    class Outage(FakeClock):
        """The archive is down for ten minutes of this clock once thirty requests have been answered."""

        async def sleep(self, seconds: float) -> None:
            await super().sleep(seconds)
            archive.down_until = up_again(self)

    def up_again(watch: FakeClock) -> float:
        over = down["from"] and watch.now >= down["from"] + 600
        return 0.0 if over or not down["from"] else float("inf")

    watch = Outage()
    sentences: list[str] = []
    async with opened(spec, root, watch, notify=sentences.append) as source:
        items = await source.plan(60)
        shard = ShardSpec.of(0, items)
        fetching = asyncio.create_task(SourceDownload(source, spec, tmp_path, 10).fetch(shard, 1000))
        while len(archive.times) < 30:
            await asyncio.sleep(0.001)
        down["from"], archive.down_until = watch.now, float("inf")
        outcome = await fetching
    assert (outcome.documents, outcome.reasons) == (60, {})
    assert 600 <= watch.now - down["from"] < 600 + 400  # found out within one more of its pauses
    # Ten were under way when it went down; after that it was asked now and then, not hammered.
    assert sum(archive.requests.values()) < 60 * 2 + 1 + 60
    assert sentences[-1].endswith("answers again")


@pytest.mark.parametrize("code", [500, 503])
async def test_the_last_items_of_a_shard_may_fail_without_waiting_for_ever(
    serve: Serve, clock: FakeClock, tmp_path: Path, code: int
) -> None:
    good = {f"good-{number}": item(f"good-{number}") for number in range(3)}
    bad = {f"bad-{number}": item("x", about_metadata=[status(code)], for_ever=True) for number in range(4)}
    archive = HostileArchive({**good, **bad})
    root = await serve(archive.routes())
    spec = SourceSpec.model_validate(SPEC)
    async with opened(spec, root, clock) as source:
        shard = ShardSpec.of(0, await source.plan(10))
        outcome = await SourceDownload(source, spec, tmp_path, 10).fetch(shard, 1000)
    assert (outcome.documents, outcome.reasons) == (3, {"archive-busy": 4})
    assert clock.now - 1000 < 3600
