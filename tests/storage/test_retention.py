from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.checkpoint import list_checkpoints, write_checkpoint
from storage.layout import Layout
from storage.lock import only_writer
from storage.manifest import Manifest, write_manifest
from storage.retention import DAY_SECONDS, Removal, RetentionParameters, plan_removals, remove

KEEP = RetentionParameters()


def make_run(layout: Layout, name: str, steps: range, **result: Any) -> Path:
    run = layout.run(name)
    for step in steps:
        write_checkpoint(
            run, step, lambda folder: (folder / "adapters.safetensors").write_bytes(b"x" * 100) and None, {}
        )
    if result:
        (run / "result.json").write_text(json.dumps(result))
    return run


def make_export(layout: Layout, name: str, age_days: float, now: float) -> Path:
    folder = layout.export(name)
    folder.mkdir(parents=True)
    for file in ("model.safetensors", "export.json"):
        (folder / file).write_text("{}")
        age(folder / file, age_days, now)
    age(folder, age_days, now)
    return folder


def age(path: Path, days: float, now: float) -> None:
    os.utime(path, (now - days * DAY_SECONDS, now - days * DAY_SECONDS))


def planned(layout: Layout, keep: RetentionParameters = KEEP, now: float | None = None) -> set[str]:
    return {removal.path.relative_to(layout.root).as_posix() for removal in plan_removals(layout, keep, now)}


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "store")


def test_an_empty_store_has_nothing_to_remove(layout: Layout) -> None:
    assert plan_removals(layout, KEEP) == []


def test_newest_best_named_and_evaluated_checkpoints_stay(layout: Layout) -> None:
    run = make_run(layout, "a", range(10, 80, 10), adapter="checkpoint-20", best={"step": 30})
    (run / "evaluate.json").write_text(json.dumps({"others": {"early": str(run / "checkpoint-10")}}))
    (run / "export.json").write_text(json.dumps({"adapter": str(run / "checkpoint-40")}))
    assert planned(layout) == {"runs/a/checkpoint-50"}


def test_the_best_of_an_unfinished_run_is_in_its_newest_state(layout: Layout) -> None:
    run = make_run(layout, "a", range(1, 4))
    write_checkpoint(run, 4, lambda folder: None, {"best": {"step": 2}})
    assert planned(layout, RetentionParameters(keep_checkpoints=1)) == {"runs/a/checkpoint-1", "runs/a/checkpoint-3"}


@given(st.lists(st.integers(0, 50), unique=True), st.integers(1, 5), st.integers(0, 50), st.integers(0, 50))
@settings(max_examples=25, deadline=None)
def test_whatever_the_steps_the_needed_checkpoints_stay(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int], keep: int, best: int, adapter: int
) -> None:
    layout = Layout(tmp_path_factory.mktemp("store"))
    run = layout.run("r")
    for step in steps:
        write_checkpoint(run, step, lambda folder: None, {})
    run.mkdir(parents=True, exist_ok=True)
    (run / "result.json").write_text(json.dumps({"adapter": f"checkpoint-{adapter}", "best": {"step": best}}))
    parameters = RetentionParameters(keep_checkpoints=keep)
    for removal in plan_removals(layout, parameters):
        assert remove(layout, removal, parameters)
    left = {step for step, _ in list_checkpoints(run)}
    assert left == set(steps) & ({best, adapter} | set(sorted(steps)[-keep:]))
    assert plan_removals(layout, parameters) == []


def test_a_workspace_goes_once_its_source_is_sealed(layout: Layout) -> None:
    for source in ("sealed", "begun"):
        layout.unfinished(source).mkdir(parents=True)
        (layout.unfinished(source) / "rows.bin").write_bytes(b"x" * 10)
    write_manifest(layout.raw("sealed"), Manifest(kind="raw", name="sealed", shards=[]))
    (removal,) = plan_removals(layout, KEEP)
    assert (removal.path, removal.bytes) == (layout.unfinished("sealed"), 10)


def test_only_old_exports_beyond_the_newest_go(layout: Layout) -> None:
    now = 1e9
    for name, days in (("newest", 40), ("second", 50), ("third", 60)):
        make_export(layout, name, days, now)
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


def test_datasets_and_links_are_never_listed(layout: Layout, tmp_path: Path) -> None:
    for stage in ("raw", "scored", "balanced"):
        write_manifest(layout.root / stage / "a", Manifest(kind=stage, name="a", shards=[]))
    outside = tmp_path / "outside"
    outside.mkdir()
    (layout.root / "set-aside" / "raw").mkdir(parents=True)
    (layout.root / "set-aside" / "raw" / "link").symlink_to(outside)
    (layout.root / "raw" / ".tmp-01234567-link").symlink_to(outside)
    assert planned(layout, RetentionParameters(keep_days=0, leftover_hours=0)) == set()


def test_a_dataset_that_is_written_is_left_alone(layout: Layout) -> None:
    run = make_run(layout, "a", range(5))
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


def test_what_became_needed_since_it_was_planned_stays(layout: Layout) -> None:
    run = make_run(layout, "a", range(4))
    first, *_ = plan_removals(layout, KEEP)
    (run / "result.json").write_text(json.dumps({"adapter": first.path.name}))
    assert not remove(layout, first, KEEP)
    assert first.path.is_dir()


def test_a_removal_that_was_cut_short_is_a_leftover(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(layout, "a", range(3))
    (removal,) = plan_removals(layout, KEEP)

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("shutil.rmtree", killed)
        remove(layout, removal, KEEP)
    assert [step for step, _ in list_checkpoints(run)] == [1, 2], "no half checkpoint is seen"
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


def test_a_thing_that_is_gone_is_no_error(layout: Layout) -> None:
    gone = Removal(layout.run("a") / "checkpoint-1", "checkpoint", "", layout.run("a"))
    assert not remove(layout, gone, KEEP)
