"""The download as a user meets it: looked at first, interrupted, refreshed, mended; on an archive over HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from flows.download_corpus import download_corpus
from storage.errors import SourceUnavailable
from storage.manifest import find_damage, read_manifest
from tasks import archives
from tasks.sources.connection import Pace
from tests.flows import newest_artifact, summarise
from tests.tasks.sources.hostile import HostileArchive, HostileItem, corrupt, drop, status

pytestmark = pytest.mark.prefect


def text(name: str) -> bytes:
    return f"The whole text of {name}, as it was scanned. ".encode() * 20


@pytest.fixture
async def archive(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[HostileArchive]:
    """An archive of 70 items: two shards."""
    hostile = HostileArchive({f"book-{number:02}": HostileItem(text(f"book-{number:02}")) for number in range(70)})
    app = web.Application()
    for route, handler in hostile.routes().items():
        app.router.add_get(route, handler)
    server = TestServer(app)
    await server.start_server()
    monkeypatch.setenv("DISTRUST_ARCHIVE_ORG_URL", str(server.make_url("/")))
    yield hostile
    await server.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting between tries, nor for a host that chance made look as if it were down."""
    monkeypatch.setattr("flows.download_corpus.Pace", partial(Pace, first_delay_seconds=0.0))
    monkeypatch.setattr("tasks.sources.pace.FIRST_PARK_SECONDS", 0.05)
    monkeypatch.setattr(archives, "FIRST_WAIT_SECONDS", 0.01)


@pytest.fixture
def parameters(tmp_path: Path, archive: HostileArchive, prefect_server: None) -> dict[str, Any]:
    catalogue = tmp_path / "catalogue.toml"
    catalogue.write_text(
        "[books]\narchive = 'internet_archive'\nquery = 'mediatype:texts'\nsource_type = 'historical_book'\n"
        "trivium = 'rhetoric'\nprior_authority = 0.1\n",
        "utf-8",
    )
    return {
        "store": str(tmp_path / "store"),
        "catalogue": str(catalogue),
        "sources": ["books"],
        "rate_limit": 1000.0,
        "patience_hours": 0.0,
    }


def stored(parameters: dict[str, Any]) -> dict[str, bytes]:
    """Return what the sealed source holds, by name; every document once, every file as the manifest says."""
    folder = Path(parameters["store"]) / "raw" / "books"
    manifest = read_manifest(folder)
    assert manifest is not None and find_damage(folder, manifest, hashes=True) == []
    rows = [row for shard in manifest.shards for row in pq.read_table(folder / shard.file).to_pylist()]
    found = {row["id"].removeprefix("books:"): row["text"].encode() for row in rows}
    assert len(found) == len(rows)
    assert not list(folder.glob(".tmp-*"))
    assert not (Path(parameters["store"]) / "unfinished" / "books").exists()
    return found


async def progress() -> str:
    """Return what the newest progress bar of the source says."""
    return str((await newest_artifact("download-books")).description)


async def test_a_dry_run_asks_how_much_there_is_and_writes_nothing(
    parameters: dict[str, Any], archive: HostileArchive
) -> None:
    result = await download_corpus(**parameters, dry_run=True)
    assert sum(archive.requests.values()) == 1
    assert not (Path(parameters["store"]) / "raw").exists()
    (row,) = result.survey
    assert (row.source, row.offered, row.documents, row.problem) == ("books", 70, 70, "")
    assert "books      70 documents of 70 offered, about 35 MB" in summarise(result)


PAPERS = (
    "\n[papers]\narchive = 'chronicling_america'\ndate_from = 1900-01-01\ndate_to = 1900-12-31\n"
    "source_type = 'historical_newspaper'\ntrivium = 'rhetoric'\n"
)
MORE = "\n[more]\narchive = 'internet_archive'\nquery = 'x'\nsource_type = 'wiki'\ntrivium = 'logic'\n"


async def test_a_dry_run_shows_who_answered_and_who_did_not(
    parameters: dict[str, Any], archive: HostileArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.jsonl").write_text('{"text": "one"}\n')
    own = f"\n[mine]\narchive = 'local_files'\npath = '{tmp_path / 'mine'}'\nsource_type = 'wiki'\ntrivium = 'logic'\n"
    catalogue = Path(parameters["catalogue"])
    catalogue.write_text(catalogue.read_text() + PAPERS + own)
    monkeypatch.setenv("DISTRUST_LOC_URL", "http://127.0.0.1:9")
    result = await download_corpus(**parameters | {"sources": ["papers", "books", "mine"]}, dry_run=True)
    papers, books, mine = result.survey
    assert papers.unreachable and papers.documents is None
    assert books.documents == 70
    assert (mine.documents, mine.wanted) == (None, 10_000), "what is wanted was not found"
    told = summarise(result)
    assert told.startswith("70 documents, 0.0 GB in 1 of 3 sources; nothing was fetched")
    assert "papers  could not be reached: Cannot connect to host 127.0.0.1:9" in told
    assert "mine    it does not say how many it has; the 10,000 wanted would take about 50 MB" in told


@pytest.mark.parametrize("silent", [False, True])
async def test_a_dry_run_that_reaches_nobody_says_so_at_once(
    parameters: dict[str, Any], archive: HostileArchive, monkeypatch: pytest.MonkeyPatch, silent: bool
) -> None:
    catalogue = Path(parameters["catalogue"])
    catalogue.write_text(catalogue.read_text() + PAPERS + MORE)
    asked: list[str] = []

    async def say_nothing(request: web.Request) -> web.Response:
        asked.append(request.path)
        await asyncio.sleep(60)
        return web.Response()

    app = web.Application()
    app.router.add_get("/{anything:.*}", say_nothing)
    server = TestServer(app)
    await server.start_server()
    root = str(server.make_url("/")) if silent else "http://127.0.0.1:9"
    for name in ("DISTRUST_LOC_URL", "DISTRUST_ARCHIVE_ORG_URL"):
        monkeypatch.setenv(name, root)
    monkeypatch.setattr(archives, "SURVEY_SECONDS", 0.5)
    begun = time.monotonic()
    with pytest.raises(SourceUnavailable) as caught:
        await download_corpus(
            **parameters | {"sources": ["books", "papers", "more"], "patience_hours": 48.0}, dry_run=True
        )
    assert time.monotonic() - begun < 50, "no answer is waited for"
    await server.close()
    told = str(caught.value)
    assert told.count("the Internet Archive could not be reached") == 1
    assert told.count("the Library of Congress could not be reached") == 1
    assert "check the network" in told
    assert not silent or len(asked) == 2, "an archive that does not answer is asked once, whatever its sources"


async def test_the_catalogue_is_listed_with_what_is_on_disk(
    parameters: dict[str, Any], archive: HostileArchive
) -> None:
    await download_corpus(**parameters, max_samples=20)
    asked = sum(archive.requests.values())
    told = summarise(await download_corpus(**parameters, list_catalogue=True))
    assert sum(archive.requests.values()) == asked
    books = next(line for line in told.splitlines() if " books " in line)
    assert "20 documents" in books
    assert told.index("low authority") < told.index(books) < told.index("medium authority")
    assert "big_patent*" in told
    assert "on disk: nothing" in next(line for line in told.splitlines() if " wikipedia " in line)


async def test_failed_items_are_kept_and_can_be_fetched_alone(
    parameters: dict[str, Any], archive: HostileArchive, monkeypatch: pytest.MonkeyPatch, impatient: None
) -> None:
    parameters["patience_hours"] = 0.01
    monkeypatch.setenv("DISTRUST_ALLOWED_HOSTS", "mirror.example")
    archive.items["book-07"].about_file, archive.items["book-07"].for_ever = [status(500)], True
    archive.items["book-08"].metadata = {"access-restricted-item": "true"}
    archive.abroad = {"book-60": os.environ["DISTRUST_ARCHIVE_ORG_URL"].rstrip("/").replace("127.0.0.1", "localhost")}
    result = await download_corpus(**parameters)
    assert (result.sources[0].documents, result.sources[0].rejects) == (67, 3)
    archive.items["book-07"].about_file = []
    monkeypatch.setenv("DISTRUST_ALLOWED_HOSTS", "mirror.example, localhost")  # by now the host is trusted
    archive.requests.clear()
    again = await download_corpus(**parameters)
    assert again.sources[0].reused and not archive.requests
    mended = await download_corpus(**parameters, retry_failed=True)
    assert (mended.sources[0].documents, mended.sources[0].rejects) == (69, 1)
    assert set(archive.requests) == {f"{kind}/book-{n}" for kind in ("metadata", "download") for n in ("07", "60")}
    assert stored(parameters) == {name: text(name) for name in archive.items if name != "book-08"}


async def test_a_refresh_fetches_only_what_is_new(parameters: dict[str, Any], archive: HostileArchive) -> None:
    await download_corpus(**parameters, max_samples=60)
    before = stored(parameters)
    assert len(before) == 60
    shard = Path(parameters["store"]) / "raw" / "books" / "shard-00000.parquet"
    written = shard.stat().st_mtime_ns
    archive.items |= {f"new-{number}": HostileItem(text(f"new-{number}")) for number in range(7)}
    archive.requests.clear()
    result = await download_corpus(**parameters, max_samples=60, refresh=True)
    after = stored(parameters)
    # The ten items that the first request had no room for are new as well.
    assert after == {name: text(name) for name in archive.items}
    assert result.sources[0].documents == 77
    assert (await progress()).startswith("books: 77 of 77 documents")
    assert {path for path in archive.requests if "book-0" in path} == set()
    assert shard.stat().st_mtime_ns == written
    archive.requests.clear()
    await download_corpus(**parameters, max_samples=60, refresh=True)
    assert set(archive.requests) == {"scrape"}
    assert stored(parameters) == after


async def test_a_refresh_finishes_a_first_download_before_it_asks_for_more(
    parameters: dict[str, Any], archive: HostileArchive, impatient: None
) -> None:
    for item in archive.items.values():
        item.about_file, item.for_ever = [corrupt], True
    with pytest.raises(SourceUnavailable):
        await download_corpus(**parameters, max_samples=20, refresh=True)
    for item in archive.items.values():
        item.about_file = []
    (source,) = (await download_corpus(**parameters, max_samples=20, refresh=True)).sources
    assert source.documents == len(stored(parameters)) == 20
    assert archive.requests["scrape"] == 1


async def test_a_refresh_that_fails_leaves_what_was_sealed_to_later_stages(
    parameters: dict[str, Any], archive: HostileArchive, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    await download_corpus(**parameters, max_samples=60)
    before = stored(parameters)
    monkeypatch.setenv("DISTRUST_ARCHIVE_ORG_URL", "http://127.0.0.1:9")
    result = await download_corpus(**parameters, max_samples=60, refresh=True)
    assert "60 kept, not refreshed: " in summarise(result)
    (source,) = result.sources
    assert "could not be read" in source.problem
    assert (source.documents, source.manifest) == (60, f"{parameters['store']}/raw/books/manifest.json")
    assert stored(parameters) == before
    with pytest.raises(SourceUnavailable, match="could not be read"):  # what is sealed answers another request
        await download_corpus(**parameters, max_samples=61, refresh=True)
    (Path(parameters["store"]) / "raw" / "books" / "shard-00000.parquet").unlink()
    with pytest.raises(SourceUnavailable, match=r"lost or changed shard-00000\.parquet"):
        await download_corpus(**parameters, max_samples=60, refresh=True)


async def test_a_refresh_that_comes_round_again_asks_for_no_more(
    parameters: dict[str, Any], archive: HostileArchive, impatient: None
) -> None:
    wanted = parameters | {"patience_hours": 1.0, "max_samples": 20}
    await download_corpus(**wanted)
    for number in range(35, 55):  # the first that are new: all of four rounds' tries fail
        archive.items[f"book-{number:02}"].about_file = [corrupt] * 5 * 4
    archive.requests.clear()
    (source,) = (await download_corpus(**wanted, refresh=True)).sources
    assert (source.documents, source.problem) == (40, "")
    assert archive.requests["scrape"] == 1
    assert len(stored(parameters)) == 40


async def test_a_trivium_that_was_corrected_in_the_catalogue_reaches_a_sealed_source(
    parameters: dict[str, Any], archive: HostileArchive
) -> None:
    await download_corpus(**parameters, max_samples=5)
    folder, catalogue = Path(parameters["store"]) / "raw" / "books", Path(parameters["catalogue"])
    before = read_manifest(folder)
    archive.requests.clear()
    catalogue.write_text(catalogue.read_text().replace("rhetoric", "logic"))
    await download_corpus(**parameters, max_samples=5)
    after = read_manifest(folder)
    assert before is not None and after is not None
    assert after == before.model_copy(update={"notes": before.notes | {"trivium": "logic"}})
    assert not archive.requests


async def test_a_list_of_subjects_is_a_download_of_its_own_and_nothing_earlier_is_lost(
    parameters: dict[str, Any], archive: HostileArchive, tmp_path: Path
) -> None:
    about = {name: ("wolves", "bees", "tea")[number % 3] for number, name in enumerate(archive.items)}
    for name, subject in about.items():
        archive.items[name].metadata = {"title": f"On {subject}"}
    await download_corpus(**parameters)
    everything = stored(parameters)
    file = tmp_path / "subjects.txt"
    file.write_text("wolves\nbees\nunicorns\n")
    asked = parameters | {"subjects": str(file)}
    told = summarise(await download_corpus(**asked, dry_run=True))
    assert "books  3 subjects: its archive is searched for each subject; the 10,000 wanted would take" in told
    result = await download_corpus(**asked)
    found = stored(asked)
    assert found == {name: text(name) for name, subject in about.items() if subject != "tea"}
    assert [about[name] for name in found][:4] == ["wolves", "bees", "wolves", "bees"]
    assert result.sources[0].documents == len(found)
    manifest = read_manifest(Path(parameters["store"]) / "raw" / "books")
    assert manifest is not None and manifest.notes["listing"] == "nothing is found on 1 of 3 subjects: unicorns"
    aside = [row for file in Path(parameters["store"]).glob("set-aside/raw/books-*/shard-*") for row in read_ids(file)]
    assert sorted(aside) == sorted(f"books:{name}" for name in everything), "what was fetched before is set aside"
    archive.requests.clear()
    assert (await download_corpus(**asked)).sources[0].reused and not archive.requests
    archive.items["book-99"] = replace(archive.items["book-00"], metadata={"title": "On bees"})
    archive.items["book-98"] = replace(archive.items["book-00"], metadata={"title": "On tea"})
    (source,) = (await download_corpus(**parameters, refresh=True)).sources
    assert source.documents == len(found) + 1, "a scheduled refresh names no subjects, and goes on with the store's"
    file.write_text("wolves\n")
    assert (await download_corpus(**asked)).sources[0].documents == 24, "a changed list is another download"
    told = summarise(await download_corpus(**parameters, list_catalogue=True))
    assert "subjects: search" in next(line for line in told.splitlines() if " books " in line)


def read_ids(file: Path) -> list[str]:
    ids: list[str] = pq.read_table(file).column("id").to_pylist()
    return ids


async def test_two_downloads_at_once_fetch_everything_once(parameters: dict[str, Any], archive: HostileArchive) -> None:
    first, second = await asyncio.gather(download_corpus(**parameters), download_corpus(**parameters))
    assert first.sources[0].documents == second.sources[0].documents == 70
    assert stored(parameters) == {name: text(name) for name in archive.items}
    assert set(archive.requests.values()) == {1}


async def test_a_source_that_failed_for_now_comes_round_again(
    parameters: dict[str, Any], archive: HostileArchive, impatient: None
) -> None:
    for number in range(20):  # so many in a row that it must be the archive, in each of four rounds
        archive.items[f"book-{number:02}"].about_file = [corrupt] * 5 * 4
    result = await download_corpus(**parameters | {"patience_hours": 1.0})
    assert result.sources[0].documents == 70
    told = await progress()
    assert told.startswith("books: 70 of 70 documents") and "rejected" not in told, "a failed try is not counted"
    assert stored(parameters) == {name: text(name) for name in archive.items}


async def test_a_search_that_fails_for_now_gives_no_source_up(
    parameters: dict[str, Any], archive: HostileArchive, impatient: None
) -> None:
    archive.about_search = [drop, status(503), status(500)] * 4  # two rounds without an answer
    result = await download_corpus(**parameters | {"patience_hours": 1.0, "max_samples": 5})
    assert (result.sources[0].documents, archive.about_search) == (5, [])


async def test_cancelled_half_way_it_leaves_sealed_shards_only(
    parameters: dict[str, Any], archive: HostileArchive
) -> None:
    archive.items |= {f"more-{number:03}": HostileItem(text(f"more-{number:03}")) for number in range(130)}
    folder = Path(parameters["store"]) / "raw" / "books"
    running = asyncio.create_task(download_corpus(**parameters | {"rate_limit": 150.0}))
    while not list(folder.glob("shard-00000.parquet")):
        assert not running.done()
        await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises((asyncio.CancelledError, Exception)):
        await running
    left = {path.name for path in folder.iterdir()}
    sealed = sorted(name for name in left if name.startswith("shard-"))
    assert {name for name in left if not name.startswith("rejects-")} == {"plan.parquet", *sealed}
    assert {name.replace("shard", "rejects") for name in sealed} <= left, "the rejects come first"
    assert 1 <= len(sealed) < 4
    assert all(pq.read_table(folder / name).num_rows == 50 for name in sealed)
    archive.requests.clear()
    await download_corpus(**parameters)
    assert stored(parameters) == {name: text(name) for name in archive.items}
    assert sum(path.startswith("metadata") for path in archive.requests) == 200 - 50 * len(sealed)


async def test_the_ui_shows_how_far_each_source_is(parameters: dict[str, Any], archive: HostileArchive) -> None:
    archive.items["book-08"].metadata = {"access-restricted-item": "true"}
    await download_corpus(**parameters)
    told = await progress()
    assert told.startswith("books: 69 of 70 documents; ")
    assert "MB/s" in told and "rejected: 1 access-restricted" in told
    table = json.loads((await newest_artifact("download-sources")).data)
    assert table[0]["documents"] == 69
