from __future__ import annotations

import asyncio
import sys

import pytest

from benchmarks.scale import next_line
from benchmarks.scale_projection import ARCHIVES
from tasks.sources.catalogue import load_catalogue
from tasks.sources.connection import Archives, Connection, Pace
from tasks.sources.survey import estimate
from tasks.sources.web import Web


async def start(code: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)


async def test_a_stage_that_dies_is_named() -> None:
    process = await start("print('warm', flush=True); raise SystemExit(3)")
    assert await next_line(process, "score") == b"warm\n"
    with pytest.raises(RuntimeError, match="score ended with status 3"):
        await next_line(process, "score")


@pytest.mark.parametrize(
    ("archive", "source"),
    [("internet_archive", "internet_archive_books"), ("chronicling_america", "historical_newspapers")],
)
def test_the_projection_asks_the_archives_no_faster_than_a_download_does(archive: str, source: str) -> None:
    spec = load_catalogue()[source]
    found = estimate(spec, None, 1_000_000, Archives(Connection(), Pace(), Web()))
    assert 1_000_000 / ARCHIVES[archive] / 3600 == pytest.approx(found.hours, rel=0.02)
