"""A store in a bucket as the flows see it: fetched before a stage, uploaded after it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

from storage.errors import DatasetBusy
from storage.layout import Layout
from storage.lock import in_turn
from tasks.policies import run_logger

CANCELLED_PATIENCE_SECONDS = 10.0
"""How long a cancelled run waits for its turn; Prefect kills it after 30 seconds, transfers included."""


@asynccontextmanager
async def shared(layout: Layout, reads: Sequence[str], writes: Sequence[str]) -> AsyncIterator[None]:
    """Fetch what a stage reads, and upload what it wrote, also when it fails; a store in a folder needs neither.

    Runs of one machine share its mirror and move files one after another: each waits for its turn. What a stage writes
    is fetched first as well, since it goes on where another machine stopped.

    Raises:
        StoreError: The bucket cannot be reached.
    """
    await _move(layout.pull, [*reads, *writes])
    patience_seconds = math.inf
    try:
        yield
    except asyncio.CancelledError:
        patience_seconds = CANCELLED_PATIENCE_SECONDS
        raise
    finally:
        try:
            await _move(layout.push, writes, patience_seconds)
        except DatasetBusy:
            run_logger().warning("cancelled while another run moves files: the bucket gets %s later", ", ".join(writes))


async def _move(transfer: Callable[..., None], below: Sequence[str], patience_seconds: float = math.inf) -> None:
    await in_turn(partial(asyncio.to_thread, transfer, *below), run_logger().warning, patience_seconds)
