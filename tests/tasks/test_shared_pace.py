"""Several machines share an archive's pace through the Prefect server; nothing that a killed one took is missed."""

from __future__ import annotations

import logging
import time

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks.shared_pace import BATCH, SharedPace

pytestmark = [pytest.mark.prefect, pytest.mark.usefixtures("prefect_server")]


async def seconds_for(*paces: SharedPace, host: str, requests: int = BATCH) -> float:
    begun = time.monotonic()
    for pace in paces:
        for _ in range(requests):
            await pace.turn(host)
    return time.monotonic() - begun


async def test_machines_take_turns_and_are_told_what_they_wait_for(caplog: pytest.LogCaptureFixture) -> None:
    async with get_client() as client:
        limit = GlobalConcurrencyLimitCreate(name="pace-slow.example", limit=BATCH, slot_decay_per_second=1.5)
        await client.create_global_concurrency_limit(limit)
    killed, heir = SharedPace(), SharedPace()
    with caplog.at_level(logging.WARNING):
        await seconds_for(killed, host="slow.example")
        assert "pace-slow.example" not in caplog.text
        waited = await seconds_for(heir, host="slow.example")
    # The slots of the other decay, though nobody gives them back.
    assert 3.0 < waited < 40.0
    assert "pace-slow.example" in caplog.text and "other machines" in caplog.text


async def test_without_a_limit_and_without_a_server_nobody_waits() -> None:
    assert await seconds_for(SharedPace(), host="unlimited.example", requests=200) < 2.0
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        assert await seconds_for(SharedPace(), host="slow.example") < 10.0
