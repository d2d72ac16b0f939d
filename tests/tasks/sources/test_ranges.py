from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator

import pytest

from tasks.sources.rows import RangeReader


class Stream:
    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.opened: list[int] = []
        self.closed = 0

    def open_at(self, stream: str, start: int) -> Iterator[int]:
        self.opened.append(start)
        try:
            yield from range(start, self.rows)
        finally:
            self.closed += 1


async def test_consecutive_ranges_open_the_stream_once() -> None:
    stream = Stream(10)
    reader = RangeReader(stream.open_at)
    ranges = await asyncio.gather(*(reader.read("s", start, 4) for start in (0, 4, 8, 12)))
    assert ranges == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9], []]
    assert stream.opened == [0]
    await reader.close()
    assert stream.closed == 1


async def test_another_range_opens_it_anew() -> None:
    stream = Stream(10)
    reader = RangeReader(stream.open_at)
    assert await reader.read("s", 4, 2) == [4, 5]
    assert await reader.read("s", 0, 2) == [0, 1]
    assert await reader.read("t", 2, 2) == [2, 3]
    assert stream.opened == [4, 0, 2]
    await reader.close()
    assert stream.closed == 3


async def test_past_the_known_end_nothing_is_opened() -> None:
    stream = Stream(3)
    reader = RangeReader(stream.open_at)
    await reader.read("s", 0, 5)
    assert await reader.read("s", 50, 5) == []
    assert stream.opened == [0]


async def test_a_cancelled_reader_leaves_the_stream_whole() -> None:
    going, entered = threading.Event(), threading.Event()

    def slow(stream: str, start: int) -> Iterator[int]:
        for row in range(start, 10):
            entered.set()
            going.wait(10)
            yield row

    reader = RangeReader(slow)
    first = asyncio.create_task(reader.read("s", 0, 2))
    second = asyncio.create_task(reader.read("s", 2, 2))
    await asyncio.to_thread(entered.wait, 10)
    first.cancel()
    await asyncio.sleep(0)
    assert not second.done()
    going.set()
    assert await second == [2, 3]
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_an_error_after_cancelling_is_not_left_behind() -> None:
    going, entered = threading.Event(), threading.Event()

    def late(stream: str, start: int) -> Iterator[int]:
        entered.set()
        going.wait(10)
        raise OSError("too late")
        yield 0

    async def give_up() -> None:
        reading = asyncio.create_task(RangeReader(late).read("s", 0, 2))
        await asyncio.to_thread(entered.wait, 10)
        reading.cancel()
        await asyncio.sleep(0)
        going.set()
        await asyncio.wait([reading])
        assert reading.cancelled()

    faults: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context["message"]))
    await give_up()
    await asyncio.sleep(0)
    gc.collect()
    assert faults == []


async def test_an_error_closes_the_stream() -> None:
    def broken(stream: str, start: int) -> Iterator[int]:
        yield from range(start, 2)
        raise OSError("broken pipe")

    reader = RangeReader(broken)
    with pytest.raises(OSError, match="broken pipe"):
        await reader.read("s", 0, 5)
    assert await reader.read("s", 0, 2) == [0, 1]
