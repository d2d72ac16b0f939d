from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from storage.errors import DatasetBusy
from storage.lock import only_writer
from tasks.policies import exclusive


async def test_whoever_finds_a_dataset_busy_says_so_and_waits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder, order = tmp_path / "mixture", []

    async def wait() -> None:
        async with exclusive(folder):
            order.append("second")

    with caplog.at_level(logging.WARNING):
        with only_writer(folder):
            second = asyncio.create_task(wait())
            await asyncio.sleep(1.0)
            order.append("first")
        await asyncio.wait_for(second, 10.0)
    assert order == ["first", "second"]
    assert caplog.text.count("another process is writing") == 1


async def test_patience_ends_where_it_is_bounded(tmp_path: Path) -> None:
    with only_writer(tmp_path / "raw"), pytest.raises(DatasetBusy, match="wait for it to finish"):
        async with exclusive(tmp_path / "raw", patience_seconds=0.3):
            raise AssertionError("the lock was held by another")
