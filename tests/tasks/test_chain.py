"""Events of the chain against a real Prefect server."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import get_client

from tasks.chain import announce_sealed

pytestmark = pytest.mark.prefect


async def events(name: str, wanted: int) -> list[dict[str, Any]]:
    """Read the events of this name once there are so many; events reach the server's database after a while."""
    query = {
        "filter": {
            "event": {"name": [name]},
            "occurred": {"since": (datetime.now(UTC) - timedelta(hours=1)).isoformat()},
        }
    }
    deadline = time.monotonic() + 60
    async with get_client() as client:
        while True:
            found: list[dict[str, Any]] = (await client.request("POST", "/events/filter", json=query)).json()["events"]
            if len(found) >= wanted or time.monotonic() > deadline:
                return found
            await asyncio.sleep(0.3)


@flow
async def stage(mixture: str) -> None:
    announce_sealed("balanced", mixture, "/store", digest="d")


@flow
async def pipeline() -> None:
    await stage("as-part")


async def test_a_flow_on_its_own_tells_and_a_part_of_another_does_not(prefect_server: None) -> None:
    await pipeline()
    await stage("alone")
    (event,) = await events("distrust.balanced.ready", 1)
    assert event["resource"]["prefect.resource.id"] == "distrust.balanced.alone"
    assert event["payload"] == {"name": "alone", "store": "/store", "digest": "d"}


def test_outside_of_a_flow_nothing_is_told() -> None:
    announce_sealed("raw", "corpus", "")
