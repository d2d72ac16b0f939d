"""Locks between processes: who waits, for how long, and what is left of a lock whose holder is dead."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

from storage.errors import DatasetBusy, StoreError
from storage.lock import if_free, only_holder, only_writer, shared_holder
from tasks.policies import exclusive
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]
HOLD = (
    "import sys, pathlib\n"
    "from storage.lock import only_writer\n"
    "with only_writer(pathlib.Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()\n"
)


def test_a_second_writer_waits_or_names_the_first_until_that_one_is_dead(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    lines: list[str] = []
    with holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        named = rf"{tmp_path} is in use by another process \(process {holder.pid}, since .*\); wait for it to finish"
        with pytest.raises(DatasetBusy, match=named), only_writer(tmp_path, 0.5, lines.append):
            pass
        holder.kill()
    assert (
        len(lines) == 1
        and lines[0].startswith(f"{tmp_path} is in use by")
        and lines[0].endswith("; waiting for it to finish")
    )
    with only_writer(tmp_path, patience_seconds=5):
        pass


async def test_a_run_that_finds_a_dataset_busy_says_so_and_waits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, order = tmp_path / "mixture", []

    async def wait() -> None:
        async with exclusive(folder):
            order.append("second")

    with caplog.at_level(logging.WARNING):
        with only_writer(folder):
            with pytest.raises(DatasetBusy, match="wait for it to finish"):
                async with exclusive(folder, patience_seconds=0.1):
                    raise AssertionError("another holds the lock")
            caplog.clear()
            second = asyncio.create_task(wait())
            await until(lambda: "is in use by" in caplog.text)
            order.append("first")
        await asyncio.wait_for(second, 10.0)
    assert order == ["first", "second"]
    assert caplog.text.count("is in use by") == 1


def test_a_lock_file_that_is_removed_with_its_lock_is_not_held_by_those_who_opened_it_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run"
    with if_free(path) as free:
        assert not free, "there is no such file"
    with only_holder(path, "the run is held by", remove=True):
        with if_free(path) as free:
            assert not free
        with pytest.raises(DatasetBusy), only_holder(path, "the run is held by", remove=True):
            pass
    assert not path.exists()
    path.touch()

    def lock_late(file: IO[str], how: int) -> None:
        """The holder ends between our opening and our locking, and the next one makes a file of its own."""
        monkeypatch.undo()
        path.unlink()
        path.touch()
        fcntl.flock(file, how)

    monkeypatch.setattr("storage.lock.fcntl.flock", lock_late)
    with if_free(path) as free:
        assert not free, "what was locked is no longer the file of that name"
    with if_free(path) as free:
        assert free
        with pytest.raises(DatasetBusy), only_holder(path, "the run is held by"):
            pass


def test_sharing_holders_keep_a_single_one_out(tmp_path: Path) -> None:
    path = tmp_path / "users"
    with shared_holder(path), shared_holder(path), if_free(path) as free:
        assert not free
    with if_free(path) as free:
        assert free


def test_what_a_lock_file_says_is_cut_and_cleaned(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with only_holder(lock, "busy with"):
        lock.write_text("run\x1b[31m 'x'" + "y" * 1000)  # any process may write there
        with pytest.raises(DatasetBusy) as busy, only_holder(lock, "busy with"):
            pass
    assert str(busy.value).startswith("busy with run[31m 'x'yyy") and len(str(busy.value)) < 300 + len(str(lock))


def test_a_lock_is_not_taken_through_a_link(tmp_path: Path) -> None:
    (tmp_path / ".data.lock").symlink_to(tmp_path / "created")
    with pytest.raises(StoreError, match=r"\.data\.lock is a link.*remove the link"), only_writer(tmp_path / "data"):
        pass
    assert not (tmp_path / "created").exists()
    (tmp_path / "disk").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "disk")
    with only_writer(tmp_path / "runs" / "run"):
        assert (tmp_path / "disk" / ".run.lock").exists(), "folders on the way may be links"
