"""What is moved out of the way: nothing is lost, and its age counts from that moment."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from storage.checkpoint import list_checkpoints, prune_checkpoints, set_later_aside, write_checkpoint
from storage.layout import Layout
from storage.retention import DAY_SECONDS, RetentionParameters, plan_removals, remove
from storage.shard_plan import Item, make_plan, set_aside_unplanned, write_plan
from storage.superseded import free_place, move_aside, move_entries_aside

KEEP = RetentionParameters(keep_checkpoints=1)


def save(run: Path, *steps: int) -> None:
    for step in steps:
        write_checkpoint(run, step, lambda folder: (folder / "tensors").write_text("x") and None, {"step": step})


def make_old(folder: Path, days: float = 40.0) -> None:
    then = time.time() - days * DAY_SECONDS
    for entry in [*folder.rglob("*"), folder]:
        os.utime(entry, (then, then))


def aside_in(layout: Layout, days_later: float = 0.0) -> set[str]:
    removals = plan_removals(layout, KEEP, time.time() + days_later * DAY_SECONDS)
    return {
        removal.path.relative_to(layout.root).as_posix() for removal in removals if removal.kind.startswith("set-aside")
    }


def test_every_time_has_a_place_of_its_own(tmp_path: Path) -> None:
    places = []
    for _ in range(3):
        (tmp_path / "run").mkdir()
        places.append(move_aside(tmp_path / "run", tmp_path / "aside" / "run"))
    assert [place.name for place in places] == ["run", "run-2", "run-3"]
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert free_place(tmp_path / "link") == tmp_path / "link-2", "a link that leads nowhere is there as well"


def test_a_run_that_rested_for_long_is_young_where_it_is_set_aside(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    save(layout.run("old"), 1)
    make_old(layout.run("old"))
    move_aside(layout.run("old"), layout.set_aside("runs", "old", "0123456789abcdef"))
    assert aside_in(layout) == set()
    assert aside_in(layout, 29) == set()
    assert aside_in(layout, 31) == {"set-aside/runs/old-0123456789ab"}


def test_shards_of_an_earlier_request_are_young_where_they_are_set_aside(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    folder = layout.raw("a")
    folder.mkdir(parents=True)
    write_plan(folder, make_plan("a", "small", [Item("1")], 1))
    (folder / "shard-00000.parquet").write_text("x")
    make_old(folder)
    place = layout.set_aside("raw", "a", "0123456789abcdef")
    assert set_aside_unplanned(folder, make_plan("a", "large", [Item("2")], 1), place) == 1
    assert aside_in(layout) == set()
    assert aside_in(layout, 31) == {"set-aside/raw/a-0123456789ab"}


def test_checkpoints_of_another_course_make_room_for_new_ones(tmp_path: Path) -> None:
    run = tmp_path / "run"
    save(run, 1000, 4000, 5000)
    (run / "result.json").write_text(json.dumps({"adapter": "checkpoint-5000"}))
    assert set_later_aside(run, 1000) == run / "aside"
    save(run, 1500, 2000)
    assert prune_checkpoints(run, keep_last=1) == [1000, 1500]
    assert [step for step, _ in list_checkpoints(run)] == [2000]
    assert sorted(path.name for path in (run / "aside").iterdir()) == [
        "checkpoint-4000",
        "checkpoint-5000",
        "result.json",
    ]
    assert set_later_aside(run, 2000) is None, "there is nothing to move"
    assert set_later_aside(run, 1000) == run / "aside-2"
    assert [step for step, _ in list_checkpoints(run / "aside-2")] == [2000]


@pytest.mark.parametrize("result", ['{"adapter": "checkpoint-1"}', "{", "[]"])
def test_a_result_of_a_checkpoint_that_stays_stays(tmp_path: Path, result: str) -> None:
    save(tmp_path, 1, 2)
    (tmp_path / "result.json").write_text(result)
    set_later_aside(tmp_path, 1)
    assert (tmp_path / "result.json").read_text() == result


def test_another_course_of_a_run_goes_by_age_and_under_the_runs_lock(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    run = layout.run("a")
    save(run, 1, 2)
    make_old(run)
    set_later_aside(run, 1)
    move_entries_aside([], run / "asides")  # a name that only begins alike
    assert aside_in(layout) == set()
    later = time.time() + 31 * DAY_SECONDS
    (removal,) = [entry for entry in plan_removals(layout, KEEP, later) if entry.kind == "set-aside checkpoints"]
    assert (removal.path, removal.owner) == (run / "aside", run)
    assert remove(layout, removal, KEEP, later)
    assert [step for step, _ in list_checkpoints(run)] == [1] and not (run / "aside").exists()
