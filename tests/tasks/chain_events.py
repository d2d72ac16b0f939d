"""Reads the chain's events from the Prefect server of the tests."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from prefect.client.orchestration import get_client


async def events(name: str, wanted: int, store: str) -> list[dict[str, Any]]:
    """Read the events of this name about a store, as soon as there are so many: they reach the database a bit later."""
    since = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    query = {"filter": {"event": {"name": [name]}, "occurred": {"since": since}}}
    deadline = time.monotonic() + 60
    async with get_client() as client:
        while True:
            answer = await client.request("POST", "/events/filter", json=query)
            found = [event for event in answer.json()["events"] if event["payload"].get("store") == store]
            if len(found) >= wanted or time.monotonic() > deadline:
                return found
            await asyncio.sleep(0.3)
