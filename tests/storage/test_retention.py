"""What may be removed from a store, and what never is."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.atomic import move_aside, move_entries_aside
from storage.checkpoint import set_later_aside
from storage.layout import Layout
from storage.lock import only_writer
from storage.manifest import Manifest, write_manifest
from storage.retention import DAY_SECONDS, Removal, RetentionParameters, plan_removals, remove
from storage.shard_plan import Item, make_plan, set_aside_unplanned, write_plan
from tests.storage.test_checkpoint import save, steps

KEEP = RetentionParameters()


def age(path: Path, days: float, now: float) -> None:
    os.utime(path, (now - days * DAY_SECONDS, now - days * DAY_SECONDS))


def make_old(folder: Path) -> None:
    for entry in [*folder.rglob("*"), folder]:
        age(entry, 40, time.time())


def planned(layout: Layout, keep: RetentionParameters = KEEP, now: float | None = None) -> set[str]:
    return {removal.path.relative_to(layout.root).as_posix() for removal in plan_removals(layout, keep, now)}


def planned_in(layout: Layout, days: float) -> set[str]:
    return planned(layout, now=time.time() + days * DAY_SECONDS)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "store")


def test_newest_best_named_and_evaluated_checkpoints_stay(layout: Layout) -> None:
    assert plan_removals(layout, KEEP) == [], "the store is empty"
    run = layout.run("a")
    save(run, *range(10, 80, 10))
    (run / "result.json").write_text(json.dumps({"adapter": "checkpoint-20", "best": {"step": 30}}))
    (run / "evaluate.json").write_text(json.dumps({"others": {"early": str(run / "checkpoint-10")}}))
    (run / "export.json").write_text(json.dumps({"adapter": str(run / "checkpoint-40")}))
    assert planned(layout) == {"runs/a/checkpoint-50"}


def test_the_best_of_an_unfinished_run_is_in_its_newest_state(layout: Layout) -> None:
    save(layout.run("a"), 1, 2, 3)
    save(layout.run("a"), 4, best={"step": 2})
    assert planned(layout, RetentionParameters(keep_checkpoints=1)) == {"runs/a/checkpoint-1", "runs/a/checkpoint-3"}


@given(st.lists(st.integers(0, 50), unique=True), st.integers(1, 5), st.integers(0, 50), st.integers(0, 50))
@settings(max_examples=25, deadline=None)
def test_whatever_the_steps_the_needed_checkpoints_stay(
    tmp_path_factory: pytest.TempPathFactory, done: list[int], keep: int, best: int, adapter: int
) -> None:
    layout = Layout(tmp_path_factory.mktemp("store"))
    run = layout.run("r")
    save(run, *done)
    run.mkdir(parents=True, exist_ok=True)
    (run / "result.json").write_text(json.dumps({"adapter": f"checkpoint-{adapter}", "best": {"step": best}}))
    parameters = RetentionParameters(keep_checkpoints=keep)
    for removal in plan_removals(layout, parameters):
        assert remove(layout, removal, parameters)
    assert set(steps(run)) == set(done) & ({best, adapter} | set(sorted(done)[-keep:]))
    assert plan_removals(layout, parameters) == []


def test_a_workspace_goes_once_its_source_is_complete(layout: Layout) -> None:
    for source in ("complete", "begun"):
        layout.unfinished(source).mkdir(parents=True)
        (layout.unfinished(source) / "rows.bin").write_bytes(b"x" * 10)
    write_manifest(layout.raw("complete"), Manifest(kind="raw", name="complete", shards=[]))
    (removal,) = plan_removals(layout, KEEP)
    assert (removal.path, removal.bytes) == (layout.unfinished("complete"), 10)


def test_only_old_exports_beyond_the_newest_go(layout: Layout) -> None:
    now = 1e9
    for name, days in (("newest", 40), ("second", 50), ("third", 60)):
        folder = layout.export(name)
        folder.mkdir(parents=True)
        (folder / "export.json").write_text("{}")
        age(folder / "export.json", days, now)
        age(folder, days, now)
    assert planned(layout, now=now) == {"exports/third"}
    assert planned(layout, RetentionParameters(keep_exports=1, keep_days=55), now) == {"exports/third"}
    assert planned(layout, RetentionParameters(keep_exports=1), now) == {"exports/second", "exports/third"}


def test_set_aside_and_leftovers_go_by_age(layout: Layout) -> None:
    now = 1e9
    aside = layout.set_aside("runs", "a", "0123456789abcdef")
    aside.mkdir(parents=True)
    leftover = layout.raw("s") / ".tmp-01234567-shard-0.parquet"
    beside = layout.root / "runs" / ".tmp-01234567-a"
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(b"xx")
    (beside / "inner").mkdir(parents=True)
    for path, days in ((aside, 31), (leftover, 1.1), (beside / "inner", 2), (beside, 3)):
        age(path, days, now)
    removals = {removal.path: removal for removal in plan_removals(layout, KEEP, now)}
    assert set(removals) == {aside, leftover, beside}
    assert removals[leftover].owner == layout.raw("s")
    assert removals[beside].owner == layout.run("a")
    age(beside / "inner", 0.5, now)
    assert planned(layout, RetentionParameters(keep_days=32), now) == {"raw/s/.tmp-01234567-shard-0.parquet"}


def test_the_age_of_what_is_set_aside_counts_from_that_moment(layout: Layout) -> None:
    save(layout.run("old"), 1)
    make_old(layout.run("old"))
    move_aside(layout.run("old"), layout.set_aside("runs", "old", "0123456789abcdef"))
    raw = layout.raw("a")
    raw.mkdir(parents=True)
    write_plan(raw, make_plan("a", "small", [Item("1")], 1))
    (raw / "shard-00000.parquet").write_text("x")
    make_old(raw)
    place = layout.set_aside("raw", "a", "0123456789abcdef")
    assert set_aside_unplanned(raw, make_plan("a", "large", [Item("2")], 1), place) == 1
    assert planned(layout) == planned_in(layout, 29) == set()
    assert planned_in(layout, 31) == {"set-aside/runs/old-0123456789ab", "set-aside/raw/a-0123456789ab"}


def test_another_course_of_a_run_goes_by_age_and_under_the_runs_lock(layout: Layout) -> None:
    run = layout.run("a")
    save(run, 1, 2)
    make_old(run)
    set_later_aside(run, 1)
    move_entries_aside([], run / "asides")  # a name that only begins alike
    assert planned(layout) == set()
    later = time.time() + 31 * DAY_SECONDS
    (removal,) = plan_removals(layout, KEEP, later)
    assert (removal.path, removal.owner) == (run / "aside", run)
    assert remove(layout, removal, KEEP, later)
    assert steps(run) == [1] and not (run / "aside").exists()


def test_datasets_are_never_listed(layout: Layout) -> None:
    for stage in ("raw", "scored", "balanced"):
        write_manifest(layout.root / stage / "a", Manifest(kind=stage, name="a", shards=[]))
    assert planned(layout, RetentionParameters(keep_days=0, leftover_hours=0)) == set()


def test_a_dataset_that_is_written_is_left_alone(layout: Layout) -> None:
    run = layout.run("a")
    save(run, *range(5))
    removals = plan_removals(layout, KEEP)
    assert len(removals) == 3
    held, release = threading.Event(), threading.Event()

    def train() -> None:
        with only_writer(run):
            held.set()
            release.wait(30)

    trainer = threading.Thread(target=train)
    trainer.start()
    held.wait(30)
    assert not any(remove(layout, removal, KEEP) for removal in removals)
    release.set()
    trainer.join()
    assert all(remove(layout, removal, KEEP) for removal in removals)


def test_what_became_needed_or_went_since_it_was_planned_is_left_alone(layout: Layout) -> None:
    run = layout.run("a")
    save(run, *range(4))
    first, *_ = plan_removals(layout, KEEP)
    (run / "result.json").write_text(json.dumps({"adapter": first.path.name}))
    assert not remove(layout, first, KEEP) and first.path.is_dir()
    gone = Removal(run / "checkpoint-9", "checkpoint", "", run)
    assert not remove(layout, gone, KEEP)


def test_a_removal_that_was_cut_short_is_a_leftover(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    run = layout.run("a")
    save(run, 0, 1, 2)
    (removal,) = plan_removals(layout, KEEP)

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("shutil.rmtree", killed)
        remove(layout, removal, KEEP)
    assert steps(run) == [1, 2], "no half checkpoint is seen"
    now = RetentionParameters(leftover_hours=0)
    (leftover,) = plan_removals(layout, now)
    assert leftover.kind == "leftover" and leftover.owner == run
    assert remove(layout, leftover, now) and not any(run.glob(".tmp-*"))


def test_sizes_do_not_follow_links(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"x" * 100_000)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "small").write_bytes(b"x")
    (folder / "link").symlink_to(tmp_path / "big")
    assert Removal(folder, "leftover", "", folder).bytes == 1 + len(os.readlink(folder / "link"))
