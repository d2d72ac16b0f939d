from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from storage.atomic import atomic_folder, atomic_path, remove_temporaries, write_json, write_text
from storage.errors import StoreError


def test_a_failed_write_leaves_the_old_file_and_no_trace(tmp_path: Path) -> None:
    target = tmp_path / "value.txt"
    write_text(target, "old")
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["value.txt"]


@pytest.mark.parametrize("whole", [atomic_path, atomic_folder])
def test_what_is_written_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Callable[[Path], AbstractContextManager[Path]]
) -> None:
    synced: list[int] = []
    synced_before: list[int] = []

    def sync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)

    def rename(source: Path, target: Path) -> None:
        synced_before.extend(synced)
        os.rename(source, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", rename)
    with whole(tmp_path / "value") as temporary:
        file = temporary / "nested" / "file" if temporary.is_dir() else temporary
        file.parent.mkdir(exist_ok=True)
        file.write_text("content")
    written = {path.stat().st_ino for path in (tmp_path / "value", *(tmp_path / "value").rglob("*"))}
    assert written and written <= set(synced_before)
    assert synced[-1] == tmp_path.stat().st_ino, "and the name last, or a power cut takes it away again"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_explained_whatever_is_written(tmp_path: Path, code: int) -> None:
    target = tmp_path / "value.txt"
    told = r"no room to write .*value\.txt.*no half-written file remains"
    with pytest.raises(StoreError, match=told), atomic_path(target):
        raise OSError(code, os.strerror(code))
    with pytest.raises(PermissionError), atomic_path(target):
        raise PermissionError(errno.EACCES, "another trouble")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_appears_whole_and_replaces_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    for content in ("one", "two"):
        with atomic_folder(target) as folder:
            (folder / "nested").mkdir()
            (folder / "nested" / "file").write_text(content)
            assert not target.exists() or content == "two"
    assert (target / "nested" / "file").read_text() == "two"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_failed_folder_keeps_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    with atomic_folder(target) as folder:
        (folder / "file").write_text("old")
    with pytest.raises(RuntimeError), atomic_folder(target) as folder:
        (folder / "file").write_text("new")
        raise RuntimeError
    assert (target / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_json_keeps_letters_and_order(tmp_path: Path) -> None:
    write_json(tmp_path / "value.json", {"z": "é", "a": 1})
    assert (tmp_path / "value.json").read_text("utf-8") == '{\n  "z": "é",\n  "a": 1\n}\n'


def test_kill_during_writes_leaves_only_whole_files(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from storage.atomic import write_json\n"
        "for n in range(10**9): write_json(pathlib.Path(sys.argv[1]) / 'value.json', [n] * 20000)\n"
    )
    root = Path(__file__).resolve().parents[2]
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=root)
    deadline = time.monotonic() + 30
    while not (tmp_path / "value.json").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    content = json.loads((tmp_path / "value.json").read_text())
    assert len(content) == 20000 and len(set(content)) == 1
    remove_temporaries(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["value.json"]
