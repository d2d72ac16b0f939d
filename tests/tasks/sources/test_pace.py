from __future__ import annotations

import asyncio
import random

import pytest

from storage.errors import ArchiveAway, ArchiveBusy, ArchiveUnreachable, CorruptAnswer, ItemUnavailable
from tasks.sources.pace import DOWN_AFTER, OVERLOADED, RECENT, RECOVERY_SECONDS, SLOWEST, HostPace
from tests.tasks.sources.conftest import FakeClock


def make_pace(clock: FakeClock, patience_seconds: float = 3600.0) -> tuple[HostPace, list[str]]:
    sentences: list[str] = []
    pace = HostPace("h.example", 1000.0, patience_seconds=patience_seconds, notify=sentences.append, clock=clock)
    return pace, sentences


def busy(pause: float | None = None, *, overloaded: bool = False) -> ArchiveBusy:
    return ArchiveBusy("answered 503", pause, overloaded=overloaded)


async def test_a_named_pause_shuts_the_host_for_everybody(clock: FakeClock) -> None:
    pace, sentences = make_pace(clock)
    pace.note(None)
    pace.note(busy(30))
    pace.note(busy(10))  # a shorter one under way does not shorten it
    await asyncio.gather(pace.turn(), pace.turn())
    assert clock.now >= 1030
    assert sentences == ["h.example is parked for 30 s (answered 503); other archives go on"]
    assert not pace.is_down


async def test_a_host_that_fails_again_and_again_is_parked_for_longer_each_time(clock: FakeClock) -> None:
    pace, sentences = make_pace(clock)
    pace.note(None)
    for _ in range(DOWN_AFTER - 1):
        pace.note(busy())
    assert not pace.is_down
    pace.note(busy())
    assert pace.is_down
    pauses = []
    for _ in range(8):
        before = clock.now
        await pace.turn()
        pauses.append(round(clock.now - before))
        pace.note(busy())
    assert pauses == [5, 10, 20, 40, 80, 160, 300, 300]
    await pace.turn()
    pace.note(None)
    assert not pace.is_down
    assert sentences[-1] == "h.example answers again"
    before = clock.now
    await pace.turn()
    assert clock.now == before


async def test_failures_under_way_when_the_host_is_parked_count_once(clock: FakeClock) -> None:
    pace, sentences = make_pace(clock)
    pace.note(None)
    for _ in range(DOWN_AFTER + 10):
        pace.note(busy())
    before = clock.now
    await pace.turn()
    assert clock.now - before == pytest.approx(5)
    assert len(sentences) == 1


async def test_patience_ends(clock: FakeClock) -> None:
    pace, _ = make_pace(clock, patience_seconds=100)
    pace.note(None)
    for _ in range(DOWN_AFTER):
        pace.note(busy())
    with pytest.raises(ArchiveAway, match="the limit is 100 s: answered 503"):
        while True:
            await pace.turn()
            pace.note(busy())
    assert clock.now - 1000 <= 100


async def test_a_host_that_named_a_pause_is_there_though_it_answered_nothing_yet(clock: FakeClock) -> None:
    pace, _ = make_pace(clock)
    for _ in range(DOWN_AFTER * 2):
        pace.note(ArchiveUnreachable("no route"))
    assert pace.is_unreachable and not pace.is_down and pace.pause_left == 0
    pace.note(busy(3000))
    assert not pace.is_unreachable
    await pace.turn()
    assert clock.now == pytest.approx(4000)


def test_what_concerns_an_item_is_an_answer(clock: FakeClock) -> None:
    pace, _ = make_pace(clock)
    pace.note(ItemUnavailable("not-found"))
    assert pace.answers == 1
    pace.note(CorruptAnswer("broken"))  # says nothing: a proxy, a cut line, or the host
    assert pace.answers == 1


def overload(pace: HostPace, times: int = 1) -> None:
    """Let a host say "later" to half of what it is asked until its pace was halved so often."""
    for _ in range(times * OVERLOADED):
        pace.note(None)
        pace.note(busy(overloaded=True))


def test_an_overloaded_host_is_asked_less_and_soon_more_again(clock: FakeClock) -> None:
    pace, _ = make_pace(clock)
    overload(pace, 2)
    assert pace.slowness == 4
    for expected in (2, 1):
        for _ in range(RECENT):
            pace.note(None)
        assert pace.slowness == expected
    overload(pace, 20)
    assert pace.slowness == SLOWEST
    clock.now += RECOVERY_SECONDS  # a slow pace has few answers to go by
    assert pace.slowness == SLOWEST // 2
    clock.now += 120 - RECOVERY_SECONDS
    assert pace.slowness == 1


@pytest.mark.parametrize("rate", [0.3, 2.0, 20.0])
async def test_a_host_that_says_too_many_now_and_then_is_asked_at_its_pace(clock: FakeClock, rate: float) -> None:
    noise = random.Random(1)
    pace, _ = make_pace(clock)
    overload(pace, 20)
    clock.now += 120
    before, asked = clock.now, 0
    while clock.now < before + 1200:
        clock.now += pace.slowness / rate
        asked += 1
        pace.note(busy(overloaded=True) if noise.random() < 0.04 else None)
    assert asked >= 0.9 * 1200 * rate


@pytest.mark.parametrize("rate", [2.0, 20.0])
def test_a_host_that_takes_half_as_much_is_found_out(clock: FakeClock, rate: float) -> None:
    pace, _ = make_pace(clock)
    asked = refused = 0
    allowance, refilled = 1.0, clock.now
    while clock.now < 1000 + 1200:
        clock.now += pace.slowness / rate
        allowance, refilled = min(1.0, allowance + (clock.now - refilled) * rate / 2), clock.now
        good = allowance >= 1 - 1e-6
        allowance -= good
        asked, refused = asked + 1, refused + (not good)
        pace.note(None if good else busy(overloaded=True))
    assert refused / asked < 0.3 and asked - refused > 0.4 * 1200 * rate


def test_a_fault_now_and_then_slows_nothing(clock: FakeClock) -> None:
    pace, _ = make_pace(clock)
    for number in range(400):
        pace.note(busy() if number % 10 == 9 else None)
        assert pace.slowness == 1
    for number in range(20):
        pace.note(busy() if number % 3 == 2 else None)
    assert pace.slowness > 1


async def test_slowness_takes_permits(clock: FakeClock) -> None:
    rate, turns = 50.0, 10
    pace = HostPace("h", rate, patience_seconds=10, notify=lambda sentence: None, clock=clock)
    overload(pace)
    loop = asyncio.get_running_loop()
    start = loop.time()
    for _ in range(turns):
        await pace.turn()
    # A bound that a busy machine cannot break: what the bucket holds at first is free, the rest comes at the rate.
    assert loop.time() - start >= (2 * turns - rate / 10) / rate - 0.001
