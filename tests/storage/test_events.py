"""What a child process prints and its parent reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage.errors import MixtureError
from storage.events import Event, LogEvent, ProgressEvent
from tasks.policies import ChildDied, run_child
from tests.events import parse_event
from tests.storage.doubling_child import Order, Outcome


async def test_a_child_is_given_a_model_and_answers_with_models(tmp_path: Path) -> None:
    events: list[Event] = []
    module = "tests.storage.doubling_child"
    outcome = await run_child(module, Order(number=4), tmp_path / "spec.json", events.append, Outcome)
    assert outcome == Outcome(doubled=8)
    assert LogEvent(message="a plain line") in events
    assert ProgressEvent(stage="count", done=1, total=2) in events
    assert Event.model_validate({"event": "measured", "loss": 0.5}) in events


async def test_a_child_that_fails_says_why(tmp_path: Path) -> None:
    module, path = "tests.storage.doubling_child", tmp_path / "spec.json"
    with pytest.raises(MixtureError, match="there are no documents"):
        await run_child(module, Order(number=1, fault="error"), path, lambda event: None, Outcome)
    with pytest.raises(ChildDied, match=r"status 3; its last lines were:\na plain line\n"):
        await run_child(module, Order(number=1, fault="exit"), path, lambda event: None, Outcome)


@pytest.mark.parametrize(
    "line", ["plain\n", '{"step": 1}', '{"event": 7}', "[" * 10_000, '{"event": "error"}'], ids=range(5)
)
def test_a_line_that_is_not_an_event_is_a_log_line(line: str) -> None:
    assert parse_event(line) == {"event": "log", "message": line.rstrip("\n")}


def test_an_event_keeps_the_fields_of_its_room() -> None:
    assert parse_event('{"event": "progress", "step": 1}') == {"event": "progress", "step": 1}
