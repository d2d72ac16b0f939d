"""Checkpoints and results of a run, and what is moved out of the way of another course of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from storage.atomic import free_place, move_aside, write_json
from storage.checkpoint import (
    CheckpointState,
    list_checkpoints,
    prune_checkpoints,
    read_state,
    set_later_aside,
    write_checkpoint,
)
from storage.errors import StoreError
from storage.training_result import read_training_result


def save(run: Path, *steps: int, **state: Any) -> None:
    for step in steps:
        write_checkpoint(
            run, step, lambda folder: (folder / "tensors").write_text("x") and None, {"step": step, **state}
        )


def steps(run: Path) -> list[int]:
    return [step for step, _ in list_checkpoints(run)]


def test_only_whole_checkpoints_count(tmp_path: Path) -> None:
    assert steps(tmp_path) == []
    save(tmp_path, 5, 20, 100)
    (tmp_path / "checkpoint-200").mkdir()
    (tmp_path / "checkpoint-new").mkdir()
    assert steps(tmp_path) == [5, 20, 100]
    assert list_checkpoints(tmp_path)[-1][1].name == "checkpoint-100"
    with pytest.raises(StoreError, match="complete checkpoint"):
        read_state(tmp_path / "checkpoint-200", CheckpointState)


def test_pruning_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, 3, 4)
    assert prune_checkpoints(tmp_path, keep_last=2, keep=frozenset({1})) == [2]
    assert steps(tmp_path) == [1, 3, 4]


def test_results_are_checked(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="train-adapter --run"):
        read_training_result(tmp_path)
    result = {"adapter": "checkpoint-9", "model_path": "/m", "steps": 9, "recipe_digest": "r", "data_digest": "d"}
    write_json(tmp_path / "result.json", result)
    write_json(tmp_path / "run.json", {"balanced": "/b"})
    assert read_training_result(tmp_path).adapter == tmp_path / "checkpoint-9"
    write_json(tmp_path / "result.json", {"adapter": "x"})
    with pytest.raises(StoreError, match="model_path"):
        read_training_result(tmp_path)


def test_everything_that_is_set_aside_has_a_place_of_its_own(tmp_path: Path) -> None:
    places = []
    for _ in range(3):
        (tmp_path / "run").mkdir()
        places.append(move_aside(tmp_path / "run", tmp_path / "aside" / "run"))
    assert [place.name for place in places] == ["run", "run-2", "run-3"]
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert free_place(tmp_path / "link") == tmp_path / "link-2", "a broken link takes the place as well"


def test_checkpoints_of_another_course_make_room_for_new_ones(tmp_path: Path) -> None:
    run = tmp_path / "run"
    save(run, 1000, 4000, 5000)
    (run / "result.json").write_text(json.dumps({"adapter": "checkpoint-5000"}))
    assert set_later_aside(run, 1000) == run / "aside"
    save(run, 1500, 2000)
    assert prune_checkpoints(run, keep_last=1) == [1000, 1500]
    assert steps(run) == [2000]
    assert {path.name for path in (run / "aside").iterdir()} == {"checkpoint-4000", "checkpoint-5000", "result.json"}
    assert set_later_aside(run, 2000) is None, "there is nothing to move"
    assert set_later_aside(run, 1000) == run / "aside-2"
    assert steps(run / "aside-2") == [2000]


@pytest.mark.parametrize("result", ['{"adapter": "checkpoint-1"}', "{", "[]"])
def test_a_result_of_a_checkpoint_that_stays_stays(tmp_path: Path, result: str) -> None:
    save(tmp_path, 1, 2)
    (tmp_path / "result.json").write_text(result)
    set_later_aside(tmp_path, 1)
    assert (tmp_path / "result.json").read_text() == result
