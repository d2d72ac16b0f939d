"""An archive's pace over all machines of one Prefect server: a rate limit whose slots decay by themselves.

On one machine a lock file keeps downloads of an archive apart. Several machines share what the server's limit
``pace-HOST`` allows; where there is no such limit, or no server for now, each keeps the archive's own pace.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import defaultdict

from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectHTTPStatusError

from tasks.policies import run_logger

BATCH = 10
"""Requests taken at a time: at two a second, this asks the server every five seconds."""
ASK_SECONDS = 5.0
AWAY_SECONDS = 60.0
NAMED_AFTER_SECONDS = 5.0
LOCKED = 423


class SharedPace:
    """Hands out an archive's requests, a batch at a time."""

    def __init__(self) -> None:
        self._left: dict[str, int] = defaultdict(int)
        self._locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._free_until: dict[str, float] = {}

    async def turn(self, host: str) -> None:
        """Wait until this machine may send a request to a host."""
        if time.monotonic() < self._free_until.get(host, 0.0):
            return
        async with self._locks[host]:
            if self._left[host] == 0:
                await self._take(host)
                self._left[host] = BATCH
            self._left[host] -= 1

    async def _take(self, host: str) -> None:
        limit = f"pace-{host}"
        begun, announced = time.monotonic(), False
        while (seconds := await self._ask(host, limit)) > 0:
            if not announced and time.monotonic() - begun + seconds > NAMED_AFTER_SECONDS:
                run_logger().warning(
                    "waiting about %.0f s: other machines use the pace that the Prefect limit %s allows", seconds, limit
                )
                announced = True
            await asyncio.sleep(seconds)

    async def _ask(self, host: str, limit: str) -> float:
        """Take a batch of slots; return how long to wait where none are left, in seconds."""
        try:
            async with asyncio.timeout(ASK_SECONDS), get_client() as client:
                answer = await client.increment_concurrency_slots([limit], BATCH, "rate_limit")
            if not answer.json():  # there is no such limit
                self._free_until[host] = math.inf
        except PrefectHTTPStatusError as error:
            if error.response.status_code == LOCKED:
                with contextlib.suppress(ValueError):
                    return min(30.0, max(0.1, float(error.response.headers.get("Retry-After", 1.0))))
            run_logger().warning("the Prefect limit %s is not kept: %s", limit, error)
            self._free_until[host] = math.inf
        except Exception as error:  # the server may be away, the download goes on
            self._free_until[host] = time.monotonic() + AWAY_SECONDS
            run_logger().debug("limit %s not asked: %s", limit, error)
        return 0.0
