"""Reading a long stream range by range without starting over for each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Generic, TypeVar

Row = TypeVar("Row")


class RangeReader(Generic[Row]):
    """Reads ranges of named streams off the event loop, one at a time.

    The stream stays open between ranges, so consecutive ranges are read in one go; any other range opens the
    stream anew at its start.

    Args:
        open_at: Opens a stream at a row; blocking.
    """

    def __init__(self, open_at: Callable[[str, int], Iterator[Row]]) -> None:
        self._open_at = open_at
        self._lock = asyncio.Lock()
        self._iterator: Iterator[Row] | None = None
        self._stream = ""
        self._position = 0
        self._ends: dict[str, int] = {}

    async def read(self, stream: str, start: int, count: int) -> list[Row]:
        """Read rows `start` .. `start + count`; fewer where the stream ends."""
        async with self._lock:
            work = asyncio.ensure_future(asyncio.to_thread(self._read, stream, start, count))
            try:
                return await asyncio.shield(work)
            except asyncio.CancelledError:
                # The thread cannot be stopped, and nobody else may touch the iterator until it is done.
                await asyncio.wait([work])
                if not work.cancelled():
                    work.exception()  # nobody is left to hear of it
                raise

    async def close(self) -> None:
        """Close the open stream."""
        async with self._lock:
            await asyncio.to_thread(self._drop)

    def _read(self, stream: str, start: int, count: int) -> list[Row]:
        if start >= self._ends.get(stream, start + 1):
            return []
        try:
            if self._iterator is None or (self._stream, self._position) != (stream, start):
                self._drop()
                self._iterator = self._open_at(stream, start)
                self._stream, self._position = stream, start
            rows = list(islice(self._iterator, count))
        except BaseException:
            self._drop()
            raise
        self._position = start + len(rows)
        if len(rows) < count:
            self._ends[stream] = self._position
            self._drop()
        return rows

    def _drop(self) -> None:
        iterator, self._iterator = self._iterator, None
        close = getattr(iterator, "close", None)
        if close is not None:
            close()
