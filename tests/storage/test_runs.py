"""Checkpoints, results, locks and names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from storage.atomic import write_json
from storage.checkpoint import list_checkpoints, prune_checkpoints, read_state, write_checkpoint
from storage.errors import ParameterError, StoreError
from storage.events import parse_event
from storage.layout import Layout
from storage.lock import only_writer
from storage.training_result import read_training_result


def test_only_whole_checkpoints_count(tmp_path: Path) -> None:
    assert list_checkpoints(tmp_path) == []
    for step in (5, 20, 100):
        write_checkpoint(tmp_path, step, lambda folder: (folder / "adapters").write_text("x") and None, {"step": step})
    (tmp_path / "checkpoint-200").mkdir()
    (tmp_path / "checkpoint-new").mkdir()
    assert [step for step, _ in list_checkpoints(tmp_path)] == [5, 20, 100]
    assert read_state(list_checkpoints(tmp_path)[-1][1])["step"] == 100
    with pytest.raises(StoreError, match="whole checkpoint"):
        read_state(tmp_path / "checkpoint-200")


def test_a_failing_writer_leaves_no_checkpoint(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "adapters").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_checkpoint(tmp_path, 1, fail, {})
    assert list(tmp_path.iterdir()) == []


def test_pruning_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        write_checkpoint(tmp_path, step, lambda folder: None, {})
    assert prune_checkpoints(tmp_path, keep_last=2, keep=frozenset({1})) == [2]
    assert [step for step, _ in list_checkpoints(tmp_path)] == [1, 3, 4]


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


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", ".hidden", "x" * 101, "a\nb", "-"])
def test_names_never_choose_a_path(tmp_path: Path, name: str) -> None:
    if name == "-":
        name = "-rf"
    with pytest.raises(ParameterError, match="plain name"):
        Layout(tmp_path).raw(name)


def test_the_store_comes_from_parameter_then_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTRUST_STORE", str(tmp_path / "env"))
    assert Layout.of().root == tmp_path / "env"
    assert Layout.of(str(tmp_path / "given")).root == tmp_path / "given"
    with pytest.raises(ParameterError, match="ftp://host"):
        Layout.of("ftp://host/x")


def test_a_second_writer_waits_or_is_told(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from storage.lock import only_writer\n"
        "with only_writer(pathlib.Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    root = Path(__file__).resolve().parents[2]
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        with pytest.raises(StoreError, match="another process"), only_writer(tmp_path, patience_seconds=0.3):
            pass
        holder.kill()
    with only_writer(tmp_path, patience_seconds=5):
        pass


def test_lines_that_are_no_events_are_log_lines() -> None:
    assert parse_event('{"event": "progress", "step": 1}') == {"event": "progress", "step": 1}
    assert parse_event("plain\n") == {"event": "log", "message": "plain"}
    assert parse_event('{"step": 1}') == {"event": "log", "message": '{"step": 1}'}
