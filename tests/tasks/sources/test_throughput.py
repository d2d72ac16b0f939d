from __future__ import annotations

import pytest

from tasks.sources.source import Document, Reject
from tasks.sources.throughput import Throughput, duration


class Seconds:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_throughput_tells_documents_speed_rest_and_rejects() -> None:
    clock = Seconds()
    throughput = Throughput(1200, clock=clock)
    assert throughput.describe() == "0 of 1,200 documents"
    throughput.note_kept(200, {"no-text": 3})
    assert throughput.describe() == "200 of 1,200 documents; rejected: 3 no-text"
    with throughput.attempt() as note:
        for number in range(100):
            note(Document(id=str(number), source="s", source_type="wiki", text="é" * 10_000))
        for _ in range(4):
            note(Reject("x", None, "too-short"))
    clock.now += 10
    assert throughput.describe() == (
        "300 of 1,200 documents; 0.20 MB/s; about 90 s left; rejected: 4 too-short, 3 no-text"
    ).replace("90 s", duration(90))
    assert throughput.fraction == 0.25


def test_a_throughput_that_is_done_has_nothing_left() -> None:
    clock = Seconds()
    throughput = Throughput(1, clock=clock)
    with throughput.attempt() as note:
        note(Document(id="1", source="s", source_type="wiki", text="a" * 1_000_000))
    clock.now += 1
    assert throughput.describe() == "1 of 1 documents; 1.00 MB/s"
    assert throughput.fraction == 1.0
    assert Throughput(0, clock=clock).fraction == 1.0


def test_a_failed_try_takes_back_what_it_counted() -> None:
    throughput = Throughput(3)
    throughput.note_kept(1, {"no-text": 1})
    documents = [Document(id=str(number), source="s", source_type="wiki", text="a") for number in range(2)]
    with pytest.raises(TimeoutError), throughput.attempt() as failing, throughput.attempt() as other:
        failing(documents[0])
        failing(Reject("x", None, "no-text"))
        other(documents[1])
        raise TimeoutError
    assert (throughput.documents, throughput.rejects) == (1, {"no-text": 1})
    with throughput.attempt() as note:
        for outcome in (*documents, Reject("x", None, "too-short")):
            note(outcome)
    assert (throughput.documents, throughput.rejects) == (3, {"no-text": 1, "too-short": 1})


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(0.4, "0 s"), (45, "45 s"), (180, "3 min"), (7500, "2 h 5 min"), (86400 * 3 + 4 * 3600, "3 d 4 h")],
)
def test_spans_are_written_with_their_largest_units(seconds: float, written: str) -> None:
    assert duration(seconds) == written
