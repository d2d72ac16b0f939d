from __future__ import annotations

import asyncio

import pytest

from storage.errors import ArchiveAway, ArchiveBusy, CorruptAnswer, ItemUnavailable
from tasks.sources.pace import DOWN_AFTER, RECENT, SLOWEST, HostPace
from tests.tasks.sources.conftest import FakeClock


def make_pace(clock: FakeClock, patience_seconds: float = 3600.0) -> tuple[HostPace, list[str]]:
    sentences: list[str] = []
    pace = HostPace("h.example", 1000.0, patience_seconds=patience_seconds, notify=sentences.append, clock=clock)
    return pace, sentences


def busy(pause: float | None = None, *, overloaded: bool = False) -> ArchiveBusy:
    return ArchiveBusy("answered 503", pause, overloaded=overloaded)


async def test_a_named_pause_shuts_the_host_for_everybody(clock: FakeClock) -> None:
    pace, sentences = make_pace(clock)
    pace.hear(None)
    pace.hear(busy(30))
    pace.hear(busy(10))  # a shorter one under way does not shorten it
    await asyncio.gather(pace.turn(), pace.turn())
    assert clock.now >= 1030
    assert sentences == ["h.example is parked for 30 s (answered 503); other archives go on"]
    assert not pace.is_down


async def test_a_host_that_fails_again_and_again_is_parked_for_longer_each_time(clock: FakeClock) -> None:
    pace, sentences = make_pace(clock)
    pace.hear(None)
    for _ in range(DOWN_AFTER - 1):
        pace.hear(busy())
    assert not pace.is_down
    pace.hear(busy())
    assert pace.is_down
    pauses = []
    for _ in range(8):
        before = clock.now
        await pace.turn()
        pauses.append(round(clock.now - before))
        pace.hear(busy())
    assert pauses == [5, 10, 20, 40, 80, 160, 300, 300]
    await pace.turn()
    pace.hear(None)
    assert not pace.is_down
    assert sentences[-1] == "h.example answers again"
    before = clock.now
    await pace.turn()
    assert clock.now == before


async def test_failures_under_way_when_the_host_is_parked_count_once(clock: FakeClock) -> None:
    pace, sentences = make_pace(clock)
    pace.hear(None)
    for _ in range(DOWN_AFTER + 10):
        pace.hear(busy())
    before = clock.now
    await pace.turn()
    assert clock.now - before == pytest.approx(5)
    assert len(sentences) == 1


async def test_patience_ends(clock: FakeClock) -> None:
    pace, _ = make_pace(clock, patience_seconds=100)
    pace.hear(None)
    for _ in range(DOWN_AFTER):
        pace.hear(busy())
    with pytest.raises(ArchiveAway, match="patience ends after 100 s: answered 503"):
        while True:
            await pace.turn()
            pace.hear(busy())
    assert clock.now - 1000 <= 100


async def test_a_host_that_never_answered_is_not_waited_for_as_long(clock: FakeClock) -> None:
    pace, _ = make_pace(clock, patience_seconds=100_000)
    for _ in range(DOWN_AFTER * 2):
        pace.hear(busy())
    assert not pace.is_down
    pace.hear(busy(119))
    await pace.turn()
    pace.hear(busy(119))
    with pytest.raises(ArchiveAway, match="patience ends after 120 s"):
        await pace.turn()


def test_what_concerns_an_item_is_an_answer(clock: FakeClock) -> None:
    pace, _ = make_pace(clock)
    pace.hear(ItemUnavailable("not-found"))
    assert pace.answers == 1
    pace.hear(CorruptAnswer("broken"))  # says nothing: a proxy, a cut line, or the host
    assert pace.answers == 1


def test_an_overloaded_host_is_asked_less_and_slowly_more_again(clock: FakeClock) -> None:
    pace, _ = make_pace(clock)
    pace.hear(None)
    pace.hear(busy(1, overloaded=True))
    pace.hear(busy(1, overloaded=True))
    assert pace.slowness == 4
    for _ in range(RECENT):
        pace.hear(None)
    assert pace.slowness == 2
    for _ in range(RECENT):
        pace.hear(None)
    assert pace.slowness == 1
    for _ in range(20):
        pace.hear(busy(1, overloaded=True))
    assert pace.slowness == SLOWEST


def test_a_fault_now_and_then_slows_nothing(clock: FakeClock) -> None:
    pace, _ = make_pace(clock)
    for number in range(400):
        pace.hear(busy() if number % 10 == 9 else None)
        assert pace.slowness == 1
    for number in range(20):
        pace.hear(busy() if number % 3 == 2 else None)
    assert pace.slowness > 1


async def test_slowness_takes_permits(clock: FakeClock) -> None:
    rate, turns = 50.0, 10
    pace = HostPace("h", rate, patience_seconds=10, notify=lambda sentence: None, clock=clock)
    pace.hear(busy(overloaded=True))
    loop = asyncio.get_running_loop()
    start = loop.time()
    for _ in range(turns):
        await pace.turn()
    # A bound that a busy machine cannot break: what the bucket holds at first is free, the rest comes at the rate.
    assert loop.time() - start >= (2 * turns - rate / 10) / rate - 0.001
