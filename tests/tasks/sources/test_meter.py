from __future__ import annotations

import pytest

from tasks.sources.meter import Meter, duration
from tasks.sources.source import Document, Reject


class Seconds:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_meter_tells_documents_speed_rest_and_rejects() -> None:
    clock = Seconds()
    meter = Meter(1200, clock)
    assert meter.describe() == "0 of 1,200 documents"
    meter.note_kept(200, {"no-text": 3})
    assert meter.describe() == "200 of 1,200 documents; rejected: 3 no-text"
    for number in range(100):
        meter.note(Document(id=str(number), source="s", source_type="wiki", text="é" * 10_000))
    for _ in range(4):
        meter.note(Reject("x", None, "too-short"))
    clock.now += 10
    assert meter.describe() == (
        "300 of 1,200 documents; 0.20 MB/s; about 90 s left; rejected: 4 too-short, 3 no-text"
    ).replace("90 s", duration(90))
    assert meter.share == 0.25


def test_a_meter_that_is_done_has_nothing_left() -> None:
    clock = Seconds()
    meter = Meter(1, clock)
    meter.note(Document(id="1", source="s", source_type="wiki", text="a" * 1_000_000))
    clock.now += 1
    assert meter.describe() == "1 of 1 documents; 1.00 MB/s"
    assert meter.share == 1.0
    assert Meter(0, clock).share == 1.0


def test_a_failed_try_takes_back_what_it_counted() -> None:
    meter = Meter(3)
    meter.note_kept(1, {"no-text": 1})
    documents = [Document(id=str(number), source="s", source_type="wiki", text="a") for number in range(2)]
    with pytest.raises(TimeoutError), meter.attempt() as failing, meter.attempt() as other:
        failing(documents[0])
        failing(Reject("x", None, "no-text"))
        other(documents[1])
        raise TimeoutError
    assert (meter.documents, meter.rejects) == (1, {"no-text": 1})
    with meter.attempt() as note:
        for outcome in (*documents, Reject("x", None, "too-short")):
            note(outcome)
    assert (meter.documents, meter.rejects) == (3, {"no-text": 1, "too-short": 1})


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(0.4, "0 s"), (45, "45 s"), (180, "3 min"), (7500, "2 h 5 min"), (86400 * 3 + 4 * 3600, "3 d 4 h")],
)
def test_spans_are_written_with_their_largest_units(seconds: float, written: str) -> None:
    assert duration(seconds) == written
