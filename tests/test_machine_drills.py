"""A download whose wall clock jumps."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.prefect_database import give_database
from tests.test_download_drills import check_whole, serve_books, start_download, until

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


@pytest.mark.skipif(shutil.which("cc") is None or sys.platform != "linux", reason="needs a C compiler on Linux")
@pytest.mark.parametrize("seconds", [7200, -7200])
async def test_a_clock_that_jumps_changes_neither_pace_nor_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    source, shim, jump = tmp_path / "clock.c", tmp_path / "clock.so", tmp_path / "jump"
    source.write_text(CLOCK, "utf-8")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(shim), str(source)], check=True)
    for name, value in {"LD_PRELOAD": shim, "CLOCK_JUMP_FILE": jump, "CLOCK_JUMP_SECONDS": seconds}.items():
        monkeypatch.setenv(name, str(value))
    give_database(tmp_path / "prefect")
    async with serve_books(tmp_path, monkeypatch) as archive:
        process = await start_download(tmp_path, None, 20.0)
        await until(tmp_path / "store" / "raw" / "books" / "shard-00000.parquet", process, tmp_path / "log")
        jump.touch()
        heard, jumped_at = archive.requests.total(), time.monotonic()
        assert await process.wait() == 0, (tmp_path / "log").read_text()
        check_whole(tmp_path / "store")
        assert set(archive.requests.values()) == {1}, "nothing is asked twice"
        pace = (archive.requests.total() - heard) / (time.monotonic() - jumped_at)
        assert pace <= 21
