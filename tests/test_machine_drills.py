"""A download whose machine restarts, whose wall clock jumps, and one that a person cancels."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from deployments import server
from tests.prefect_database import give_database
from tests.station import ROOT, Station, until
from tests.tasks.sources.hostile import HostileArchive
from tests.test_download_drills import check_whole, serve_books

pytestmark = [pytest.mark.drill, pytest.mark.timeout(1200)]

CLOCK = """
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static long jump(void) {
  const char *file = getenv("CLOCK_JUMP_FILE"), *by = getenv("CLOCK_JUMP_SECONDS");
  return file && by && access(file, F_OK) == 0 ? atol(by) : 0;
}
int clock_gettime(clockid_t clock, struct timespec *now) {
  int status = syscall(SYS_clock_gettime, clock, now);
  if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) now->tv_sec += jump();
  return status;
}
time_t time(time_t *place) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (place) *place = now.tv_sec;
  return now.tv_sec;
}
int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  struct timespec exact;
  clock_gettime(CLOCK_REALTIME, &exact);
  now->tv_sec = exact.tv_sec;
  now->tv_usec = exact.tv_nsec / 1000;
  return 0;
}
"""
"""A wall clock that jumps once a file is there; the monotonic clock goes on."""


@pytest.fixture
async def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[HostileArchive]:
    async with serve_books(tmp_path, monkeypatch) as served:
        yield served


@pytest.fixture
async def station(archive: HostileArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Station]:
    """A station whose worker knows the archive of this test."""
    monkeypatch.setenv("PREFECT_HOME", str(give_database(tmp_path / "prefect")))
    running = await asyncio.to_thread(Station, "data")
    yield running
    await asyncio.to_thread(running.stop)


async def test_a_machine_that_restarts_goes_on_with_its_download(
    station: Station, archive: HostileArchive, tmp_path: Path
) -> None:
    parameters = {"sources": ["books"], "rate_limit": 20.0, "catalogue": str(tmp_path / "catalogue.toml")}
    first = await asyncio.to_thread(station.start_run, "download-corpus", parameters)
    folder = tmp_path / "store" / "raw" / "books"
    await asyncio.to_thread(until, (folder / "shard-00000.parquet").exists)
    finished = {path: path.stat().st_mtime_ns for path in folder.glob("shard-*.parquet")}
    for process in (*station.flow_processes(), station.worker.pid, station.server.pid):
        os.kill(process, signal.SIGTERM)  # what a shutdown sends to everything
    await asyncio.to_thread(until, lambda: not station.flow_processes())
    await asyncio.sleep(2)
    await asyncio.to_thread(station.stop)

    await asyncio.to_thread(station.start_server)
    station.start_worker()
    assert station.state(first) == "RUNNING", "no process was left to say that it ended"
    await asyncio.sleep(7)
    told = await asyncio.to_thread(station.ask_the_doctor)
    assert station.state(first) == "CRASHED", told
    second = await asyncio.to_thread(station.start_run, "download-corpus", parameters | {"rate_limit": 200.0})
    assert await asyncio.to_thread(station.ended, second) == "COMPLETED"
    check_whole(tmp_path / "store")
    assert {path: path.stat().st_mtime_ns for path in finished} == finished


async def test_a_download_that_is_cancelled_in_the_ui_goes_on_later(
    station: Station, archive: HostileArchive, tmp_path: Path
) -> None:
    parameters = {"sources": ["books"], "rate_limit": 10.0, "catalogue": str(tmp_path / "catalogue.toml")}
    first = await asyncio.to_thread(station.start_run, "download-corpus", parameters)
    folder = tmp_path / "store" / "raw" / "books"
    await asyncio.to_thread(until, lambda: (folder / "plan.parquet").exists())
    station.cancel(first)
    assert await asyncio.to_thread(station.ended, first) == "CANCELLED"
    assert not (folder / "manifest.json").exists() and not list(folder.glob(".tmp-*"))
    heard = archive.requests.total()
    await asyncio.sleep(2)
    assert archive.requests.total() == heard, "nothing is asked for any more"
    second = await asyncio.to_thread(station.start_run, "download-corpus", parameters | {"rate_limit": 200.0})
    assert await asyncio.to_thread(station.ended, second) == "COMPLETED"
    check_whole(tmp_path / "store")


@pytest.mark.skipif(shutil.which("cc") is None or sys.platform != "linux", reason="needs a C compiler on Linux")
@pytest.mark.parametrize("seconds", [7200, -7200])
async def test_a_clock_that_jumps_changes_neither_pace_nor_result(
    station: Station, archive: HostileArchive, tmp_path: Path, seconds: int
) -> None:
    source, shim, jump = tmp_path / "clock.c", tmp_path / "clock.so", tmp_path / "jump"
    source.write_text(CLOCK, "utf-8")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(shim), str(source)], check=True)
    jumping = {"LD_PRELOAD": str(shim), "CLOCK_JUMP_FILE": str(jump), "CLOCK_JUMP_SECONDS": str(seconds)}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "flows", "download-corpus", "--sources", "books", "--rate-limit", "20"),
        *("--catalogue", str(tmp_path / "catalogue.toml")),
        cwd=ROOT,
        env=server.client_environment(station.port) | jumping,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    shard = tmp_path / "store" / "raw" / "books" / "shard-00000.parquet"
    await asyncio.to_thread(until, shard.exists)
    jump.touch()
    heard, jumped_at = archive.requests.total(), time.monotonic()
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    check_whole(tmp_path / "store")
    assert set(archive.requests.values()) == {1}, "nothing is asked twice"
    pace = (archive.requests.total() - heard) / (time.monotonic() - jumped_at)
    assert pace <= 21
