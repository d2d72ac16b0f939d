"""A store in a bucket as the flows see it: brought here before a stage, taken back after it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from storage.layout import Layout


@asynccontextmanager
async def shared(layout: Layout, reads: Sequence[str], writes: Sequence[str]) -> AsyncIterator[None]:
    """Bring what a stage reads, and take what it wrote to the bucket, also when it fails; a folder needs neither.

    Args:
        layout: The store.
        reads: What the stage reads, for example ``raw`` or ``raw/patents``.
        writes: What it writes; brought first as well, since a stage goes on where another machine stopped.

    Raises:
        StoreError: The bucket cannot be reached.
    """
    await asyncio.to_thread(layout.pull, *reads, *writes)
    try:
        yield
    finally:
        await asyncio.to_thread(layout.push, *writes)
