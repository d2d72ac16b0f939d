from __future__ import annotations

import json
import sys

import pytest

from benchmarks import acquisition
from benchmarks.newspaper_archive import PAGES_A_DAY


async def test_both_clients_fetch_from_the_made_archive() -> None:
    with acquisition.archive(0.0) as root:
        assert await acquisition.fetch(root, 1000.0, 20) > 0
        assert acquisition.fetch_with_threads(root, 20) > 0


async def test_pages_are_planned_from_its_search(capsys: pytest.CaptureFixture[str]) -> None:
    with acquisition.archive(0.0) as root:
        await acquisition.many(root, 1000.0, PAGES_A_DAY + 1, flow=False)
    printed = json.loads(capsys.readouterr().out)
    assert printed["seconds"] > 0 and (sys.platform != "linux" or printed["peak_mb"] > 10)
