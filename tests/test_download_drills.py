"""A long download and what can happen to it: the server dies, the process dies, the disk is full."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from deployments import processes, server
from storage.manifest import find_damage, read_manifest
from tests.prefect_database import give_database
from tests.tasks.sources.hostile import HostileArchive, HostileItem

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parent.parent
ITEMS = {f"book-{number:03}": HostileItem(f"The whole text of book {number}. ".encode() * 50) for number in range(160)}


class Server:
    """A Prefect server of these tests' own; it can be killed and started again."""

    def __init__(self) -> None:
        self.port = server.free_port(0)
        self.process = server.start_server(self.port)

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def start(self) -> None:
        self.process = server.start_server(self.port)

    def stop(self) -> None:
        processes.stop("server")
        with contextlib.suppress(ChildProcessError):
            self.process.wait()


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PREFECT_HOME", str(give_database(tmp_path_factory.mktemp("prefect"))))
        running = Server()
        yield running
        running.stop()


@pytest.fixture
async def archive(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[HostileArchive]:
    async with serve_books(tmp_path, monkeypatch) as served:
        yield served


@contextlib.asynccontextmanager
async def serve_books(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[HostileArchive]:
    """Serve an archive of 160 items, four shards, led to by the environment of child processes."""
    hostile = HostileArchive(dict(ITEMS))
    app = web.Application()
    for route, handler in hostile.routes().items():
        app.router.add_get(route, handler)
    served = TestServer(app)
    await served.start_server()
    monkeypatch.setenv("DISTRUST_ARCHIVE_ORG_URL", str(served.make_url("/")))
    monkeypatch.setenv("DISTRUST_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("DISTRUST_BLOCKS", "none-saved")
    (tmp_path / "catalogue.toml").write_text(
        "[books]\narchive = 'internet_archive'\nquery = 'mediatype:texts'\nsource_type = 'historical_book'\n"
        "trivium = 'rhetoric'\nprior_authority = 0.1\n"
        "[speeches]\narchive = 'internet_archive'\nquery = 'mediatype:texts'\nsource_type = 'classical_rhetoric'\n"
        "trivium = 'rhetoric'\nprior_authority = 0.1\n",
        "utf-8",
    )
    yield hostile
    await served.close()


def without_server(tmp_path: Path) -> dict[str, str]:
    """The environment of a shell in which no Prefect server is named."""
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    return environment | {"PREFECT_HOME": str(tmp_path / "prefect")}


async def start_download(
    tmp_path: Path,
    prefect: Server | None,
    rate: float,
    limits: str = "",
    sources: Sequence[str] = ("books",),
    **more: str,
) -> asyncio.subprocess.Process:
    options = {"sources": ",".join(sources), "rate-limit": str(rate), "catalogue": str(tmp_path / "catalogue.toml")}
    options |= more
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    command = [sys.executable, "-m", "flows", "download-corpus", *words]
    if limits:  # the limits of the shell that starts it are the child's
        command = ["bash", "-c", f'{limits}; exec "$@"', "download", *command]
    with (tmp_path / "log").open("ab") as output:
        return await asyncio.create_subprocess_exec(
            *command,
            cwd=ROOT,
            env=server.client_environment(prefect.port) if prefect else without_server(tmp_path),
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


async def until(path: Path, process: asyncio.subprocess.Process, log: Path) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.returncode is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        await asyncio.sleep(0.05)


def check_whole(store: Path, source: str = "books", items: Mapping[str, HostileItem] = ITEMS) -> None:
    folder = store / "raw" / source
    manifest = read_manifest(folder)
    assert manifest is not None and find_damage(folder, manifest, hashes=True) == []
    rows = [row for shard in manifest.shards for row in pq.read_table(folder / shard.file).to_pylist()]
    assert len(rows) == len(items)
    assert {row["id"].removeprefix(f"{source}:"): row["text"].encode() for row in rows} == {
        name: item.text for name, item in items.items()
    }
    assert not list(folder.glob(".tmp-*"))


async def test_a_download_outlives_the_prefect_server(archive: HostileArchive, prefect: Server, tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = await start_download(tmp_path, prefect, 40.0)
    await until(tmp_path / "store" / "raw" / "books" / "shard-00000.parquet", process, log)
    await asyncio.to_thread(prefect.kill)
    await asyncio.sleep(2)
    assert process.returncode is None, log.read_text()
    await asyncio.to_thread(prefect.start)
    assert await process.wait() == 0, log.read_text()
    check_whole(tmp_path / "store")
    assert set(archive.requests.values()) == {1}


SUBJECTS = ("wolves", "bees", "tea")


async def test_a_download_that_is_killed_goes_on_where_it_was(archive: HostileArchive, tmp_path: Path) -> None:
    """Nothing that the killed process held, in a lock or in Prefect's database, may make the next one wait."""
    seed = int(os.environ.get("KILL_SEED", time.time_ns() % 1_000_000))
    log = tmp_path / "log"
    log.write_text(f"KILL_SEED={seed}\n")
    give_database(tmp_path / "prefect")
    folder = tmp_path / "store" / "raw" / "books"
    for number, (name, item) in enumerate(ITEMS.items()):
        archive.items[name] = HostileItem(item.text, metadata={"title": f"On {SUBJECTS[number % 3]}"})
    (tmp_path / "subjects.txt").write_text("\n".join(SUBJECTS))
    more = {"subjects": str(tmp_path / "subjects.txt")}
    process = await start_download(tmp_path, None, 40.0, **more)
    await until(folder / "shard-00000.parquet", process, log)
    await asyncio.sleep(random.Random(seed).uniform(0.0, 3.0))
    os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
    sealed = {path.name: path.stat().st_mtime_ns for path in folder.glob("shard-*.parquet")}
    asked = Counter(archive.requests)
    process = await start_download(tmp_path, None, 1000.0, **more)
    assert await asyncio.wait_for(process.wait(), 90) == 0, log.read_text()
    assert "is marked Crashed: its process no longer exists" in log.read_text()
    check_whole(tmp_path / "store")
    assert {name: (folder / name).stat().st_mtime_ns for name in sealed} == sealed
    assert archive.requests["scrape"] == len(SUBJECTS)  # the plan was frozen
    again = {name for name in ITEMS if archive.requests[f"metadata/{name}"] > asked[f"metadata/{name}"] > 0}
    kept = {row.removeprefix("books:") for name in sealed for row in pq.read_table(folder / name)["id"].to_pylist()}
    assert not again & kept, log.read_text()
    assert len(again) <= 2 * 50, log.read_text()  # a shard begins while the last items of the one before are under way


async def test_a_full_disk_is_told_and_nothing_is_half_written(
    archive: HostileArchive, prefect: Server, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    archive.items |= {name: HostileItem(random.Random(name).randbytes(30_000).hex().encode()) for name in ITEMS}
    folder = tmp_path / "store" / "raw" / "books"
    process = await start_download(tmp_path, prefect, 1000.0, limits="ulimit -f 500")  # blocks of 1024 bytes
    assert await process.wait() == 1
    told = log.read_text()
    assert "no room to write" in told and "run again" in told, told
    assert {path.name for path in folder.iterdir()} == {"plan.parquet", "download-corpus.toml"}
    archive.items |= ITEMS
    process = await start_download(tmp_path, prefect, 1000.0)
    assert await process.wait() == 0, log.read_text()
    check_whole(tmp_path / "store")
