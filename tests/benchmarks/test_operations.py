from __future__ import annotations

from typing import Any

import pytest

from benchmarks.operations import LOAD_BOUNDS, SHARDS, judged

GOOD: dict[str, Any] = {"overhead": 0.0199, "task_runs_recorded": SHARDS, "database_locked": 0}


@pytest.mark.parametrize(
    ("changes", "hold"),
    [
        ({}, True),
        ({"overhead": 0.02}, False),
        ({"task_runs_recorded": SHARDS - 1}, False),
        ({"database_locked": 1}, False),
    ],
)
def test_a_line_tells_its_bounds_and_whether_they_hold(changes: dict[str, Any], hold: bool) -> None:
    line = judged({"benchmark": "load", **GOOD, **changes}, LOAD_BOUNDS)
    assert line["bounds_hold"] is hold and line["benchmark"] == "load"
    assert line["bounds"] == {"overhead": "< 0.02", "task_runs_recorded": "== 200", "database_locked": "== 0"}
