"""A disk that is really full in the midst of each stage that writes: the run says so, and goes on once it has room."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from storage.checkpoint import damaged_files, list_checkpoints
from storage.manifest import MANIFEST, find_damage, read_manifest
from tests.stages import STAGES
from tests.station import Station, running_station, until

pytestmark = [pytest.mark.drill, pytest.mark.timeout(1200)]

DISK_MIB = 24


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Station]:
    with running_station(tmp_path_factory.mktemp("prefect")) as running:
        yield running


class Disk:
    """A small file system of its own, which can be filled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self, left_bytes: int = 0) -> None:
        """Leave this much room and no more."""
        with self._ballast.open("wb") as file:
            while True:
                try:
                    os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(self.folder).free - left_bytes)
                except OSError as error:  # the run wrote something meanwhile
                    assert error.errno == errno.ENOSPC
                else:
                    return

    def make_room(self) -> None:
        """Do what the run asks for."""
        self._ballast.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(folder)]
    try:
        answer = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    if answer.returncode:
        pytest.skip(f"no file system can be mounted here: {answer.stderr.strip()}")
    yield Disk(folder)
    subprocess.run(["umount", "-l", str(folder)], check=True)


def check_told(station: Station, run: str) -> None:
    """The run is Failed, and what the UI shows of it says why and what to do."""
    assert station.ended(run) == "FAILED"
    message = station.message(run)
    assert "no room to write" in message and "run again" in message, message


def scored_is_in_order(store: Path) -> None:
    for shard in (store / "scored").rglob("shard-*.parquet"):
        pq.ParquetFile(shard).read()
    sealed = [folder for folder in (store / "scored").glob("*") if (folder / MANIFEST).exists()]
    assert len(sealed) < 4
    for folder in sealed:
        manifest = read_manifest(folder)
        assert manifest is not None and find_damage(folder, manifest, hashes=True) == []


def mixture_is_missing(store: Path) -> None:
    assert not (store / "balanced" / "default").exists()


def checkpoints_are_whole(store: Path) -> None:
    kept = list_checkpoints(store / "runs" / "drill")
    assert [step for step, _ in kept] == [10]
    assert [damaged_files(folder) for _, folder in kept] == [[]]


CASES = {
    # stage: room that is left once this is there, and what must then be in order
    "score-corpus": (24_000, "", scored_is_in_order),
    "rebalance-corpus": (64_000, "", mixture_is_missing),
    "train-adapter": (0, "runs/drill/checkpoint-10", checkpoints_are_whole),
}


@pytest.mark.parametrize(("name", "left_bytes", "once", "in_order"), [(name, *case) for name, case in CASES.items()])
def test_a_full_disk_is_told_and_the_run_goes_on_once_there_is_room(
    name: str,
    left_bytes: int,
    once: str,
    in_order: Callable[[Path], None],
    station: Station,
    disk: Disk,
) -> None:
    stage = STAGES[name]
    store = stage.prepare(disk.folder / "work")
    if name == "score-corpus":
        shutil.rmtree(store / "scored")  # shards that are replaced would take no more room
    frequent = {"save_every": 10} if name == "train-adapter" else {}
    parameters = stage.parameters(store) | frequent | {"store": str(store)}
    if not once:
        disk.fill(left_bytes)
    failing = station.start_run(stage.flow, parameters)
    if once:
        until((store / once).exists)
        disk.fill(left_bytes)
    check_told(station, failing)
    in_order(store)
    assert not list(store.rglob(".tmp-*"))

    disk.make_room()
    assert station.ended(station.start_run(stage.flow, parameters | stage.quick)) == "COMPLETED"
    assert stage.made(store)
    assert not list(store.rglob(".tmp-*"))
