from __future__ import annotations

import pytest

from tasks.evals.charts import draw_curve, draw_ratios, nice_ticks


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0, 100, [0, 25, 50, 75, 100]), (3.1, 4.9, [3.0, 3.5, 4.0, 4.5, 5.0]), (2, 2, [2.0, 2.05, 2.1, 2.15, 2.2])],
)
def test_ticks_are_round_and_cover_the_range(low: float, high: float, ticks: list[float]) -> None:
    assert nice_ticks(low, high) == pytest.approx(ticks)


def test_a_curve_stays_within_its_frame_and_falls_downwards() -> None:
    rows = [{"step": step, "kind": "train", "ce": 5.0 - step / 10, "valid_ce": None} for step in range(0, 30, 5)]
    curve = draw_curve([*rows, {"step": 30, "kind": "valid", "ce": float("nan"), "valid_ce": 4.0}])
    assert curve is not None and [line.kind for line in curve.lines] == ["train"]
    points = [tuple(map(float, pair.split(","))) for pair in curve.lines[0].points.split()]
    assert all(curve.left <= x <= curve.right and curve.top <= y <= curve.bottom for x, y in points)
    assert [y for _, y in points] == sorted(y for _, y in points), "a falling loss goes down the page"


def test_one_point_makes_no_curve() -> None:
    assert draw_curve([]) is None
    assert draw_curve([{"step": 1, "kind": "train", "ce": 2.0}]) is None


def test_ratios_lie_on_either_side_of_one() -> None:
    records = {
        "low": {"value": 0.8, "low": 0.75, "high": 0.9},
        "medium": {"value": None, "low": None, "high": None},
        "high": {"value": 1.2, "low": 1.1, "high": 1.3},
    }
    strip = draw_ratios(records)
    assert strip is not None and strip.one == 50
    low, high = strip.spans
    assert 0 <= low.low < low.value < low.high < 50 < high.low < high.value < high.high <= 100
    assert draw_ratios({"medium": records["medium"]}) is None
    alone = {"value": 0.9, "low": None, "high": None}  # of one text
    assert draw_ratios({"low": alone}) is None
    beside = draw_ratios({**records, "low": alone})
    assert beside is not None and [span.name for span in beside.spans] == ["high"]
