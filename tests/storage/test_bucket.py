from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pyarrow as pa
import pytest
from pyarrow.fs import FileSelector, S3FileSystem

from storage.atomic import move_aside
from storage.bucket import Bucket
from storage.errors import ParameterError, StoreError
from storage.layout import Layout
from storage.manifest import Manifest, find_damage, read_manifest, record_shard, write_manifest
from storage.parquet import write_shard
from tests.bucket import BUCKET
from tests.bucket import bucket as bucket

URI = f"s3://{BUCKET}/corpus"
SCHEMA = pa.schema([pa.field("n", pa.int64(), nullable=False)])


def open_at(machine: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """The store as one machine sees it: with a mirror of its own."""
    monkeypatch.setenv("DISTRUST_MIRROR", str(machine))
    return Layout.of(URI)


@pytest.fixture
def here(bucket: S3FileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    return open_at(tmp_path / "here", monkeypatch)


@pytest.fixture
def there(bucket: S3FileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    return open_at(tmp_path / "there", monkeypatch)


@pytest.fixture
def moves(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is uploaded (+) and deleted (-) in the bucket, in order."""
    moves: list[str] = []
    upload, delete = Bucket._upload, Bucket._delete
    monkeypatch.setattr(Bucket, "_upload", lambda s, m, path: moves.append(f"+{path}") or upload(s, m, path))
    monkeypatch.setattr(Bucket, "_delete", lambda s, path: moves.append(f"-{path}") or delete(s, path))
    return moves


def pulled(layout: Layout) -> list[str]:
    assert layout.bucket is not None
    return layout.bucket.pull(layout.root, ["raw"])


def seal(layout: Layout, name: str, sizes: list[int], start: int = 0) -> Manifest:
    """Write a sealed dataset of shards with so many rows."""
    folder = layout.raw(name)
    records = []
    for index, size in enumerate(sizes):
        path = folder / f"shard-{index:05d}.parquet"
        write_shard(path, pa.table({"n": range(start, start + size)}, SCHEMA), SCHEMA)
        records.append(record_shard(folder, path))
    manifest = Manifest(kind="raw", name=name, shards=records)
    write_manifest(folder, manifest)
    return manifest


def objects(service: S3FileSystem) -> set[str]:
    found = service.get_file_info(FileSelector(f"{BUCKET}/corpus", recursive=True, allow_not_found=True))
    return {info.path.removeprefix(f"{BUCKET}/corpus/") for info in found if info.is_file}


def test_what_one_machine_seals_another_reads(bucket: S3FileSystem, here: Layout, there: Layout) -> None:
    manifest = seal(here, "books", [3, 4])
    (here.raw("books") / ".tmp-1-shard").write_text("half")
    here.push("raw/books")
    assert objects(bucket) == {f"raw/books/{name}" for name in ("manifest.json", *(s.file for s in manifest.shards))}
    assert there.root != here.root
    there.pull("raw")
    assert read_manifest(there.raw("books")) == manifest
    assert find_damage(there.raw("books"), manifest, hashes=True) == []
    assert there.completed("raw") == ["books"]
    assert there.bucket is not None and pulled(there) == there.bucket.push(there.root, ["raw"]) == []


def test_another_version_is_unsealed_before_its_first_shard_and_sealed_after_its_last(
    here: Layout, there: Layout, moves: list[str]
) -> None:
    seal(here, "books", [3, 4, 5])
    here.push("raw/books")
    there.pull("raw/books")
    (here.raw("books") / "shard-00002.parquet").unlink()
    second = seal(here, "books", [6, 7], start=100)

    moves.clear()
    here.push("raw/books")
    changes = [move.replace("raw/books/", "") for move in moves]
    assert changes[0] == "-manifest.json" and changes[-2:] == ["-shard-00002.parquet", "+manifest.json"]
    assert sorted(changes[1:-2]) == ["+shard-00000.parquet", "+shard-00001.parquet"]
    there.pull("raw/books")
    assert read_manifest(there.raw("books")) == second
    assert find_damage(there.raw("books"), second, hashes=True) == []


def test_what_is_set_aside_arrives_in_the_bucket_before_it_leaves_its_place(here: Layout, moves: list[str]) -> None:
    here.run("mine").mkdir(parents=True)
    (here.run("mine") / "result.json").write_text("{}")
    here.push("runs/mine")
    move_aside(here.run("mine"), here.set_aside("runs", "mine", "0123"))
    here.push("runs/mine")
    assert moves[1:] == ["+set-aside/runs/mine-0123/result.json", "-runs/mine/result.json"]


def test_a_mirror_that_lost_or_damaged_a_file_fetches_it_again(here: Layout, there: Layout) -> None:
    manifest = seal(here, "books", [3, 4, 5])
    here.push("raw")
    there.pull("raw")
    folder = there.raw("books")
    (folder / "shard-00000.parquet").unlink()
    (folder / "shard-00001.parquet").write_bytes(b"cut")
    assert pulled(there) == [f"raw/books/shard-0000{n}.parquet" for n in (0, 1)]
    assert find_damage(folder, manifest, hashes=True) == []


def test_what_a_failed_push_left_behind_is_newer_than_the_bucket(here: Layout, there: Layout) -> None:
    log, theirs = here.run("first") / "training.log", there.run("first") / "training.log"
    log.parent.mkdir(parents=True)
    log.write_text("step 1\n", "utf-8")
    here.push("runs")
    log.write_text("step 1\nstep 2\n", "utf-8")  # and the push after it failed
    here.pull("runs")
    assert log.read_text("utf-8") == "step 1\nstep 2\n"
    here.push("runs")
    there.pull("runs")
    assert theirs.read_text("utf-8") == "step 1\nstep 2\n"
    theirs.write_text("step 1\nstep 2\nstep 3\n", "utf-8")
    there.push("runs")
    here.pull("runs")
    assert log.read_text("utf-8").endswith("step 3\n"), "what changed there comes all the same"


def test_a_shard_that_is_not_what_the_manifest_means_is_told(bucket: S3FileSystem, here: Layout, there: Layout) -> None:
    seal(here, "books", [3])
    here.push("raw")
    with bucket.open_output_stream(f"{BUCKET}/corpus/raw/books/shard-00000.parquet") as stream:
        stream.write(b"something else")
    for _ in range(2):  # the second time the shard is here already
        with pytest.raises(StoreError, match="does not match its manifest"):
            there.pull("raw")
        assert read_manifest(there.raw("books")) is None


def test_an_upload_that_is_killed_leaves_no_manifest(bucket: S3FileSystem, here: Layout, there: Layout) -> None:
    manifest = seal(here, "books", [200_000] * 12)
    code = f"from storage.layout import Layout; Layout.of({URI!r}).push('raw/books')"
    mirror = {"DISTRUST_MIRROR": str(here.root.parent)}
    process = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2], env=os.environ | mirror)
    deadline = time.monotonic() + 60
    while not objects(bucket):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert "raw/books/manifest.json" not in objects(bucket)
    here.push("raw/books")
    there.pull("raw")
    assert find_damage(there.raw("books"), manifest, hashes=True) == []


def test_an_upload_that_breaks_off_is_no_object_and_goes_on_later(
    bucket: S3FileSystem, here: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_off(source: str, target: str, *arguments: object, **options: object) -> None:
        with bucket.open_output_stream(target) as stream:  # Arrow completes what its source broke off
            stream.write(b"half")
        raise OSError("connection reset")

    seal(here, "books", [3])
    with monkeypatch.context() as broken, pytest.raises(StoreError, match="run again"):
        broken.setattr("storage.bucket.copy_files", break_off)
        here.push("raw/books")
    assert objects(bucket) == set(), "no part, and no manifest"
    here.push("raw/books")
    assert objects(bucket) == {"raw/books/manifest.json", "raw/books/shard-00000.parquet"}


@pytest.mark.parametrize("name", ["raw/../../evil.txt", "raw/books/../../../evil.txt", "raw/a\\..\\evil.txt"])
def test_a_name_in_the_bucket_never_leads_out_of_the_mirror(here: Layout, tmp_path: Path, name: str) -> None:
    address = f"{os.environ['AWS_ENDPOINT_URL']}/{BUCKET}/corpus/{name}".replace("..", "%2E%2E").replace("\\", "%5C")
    assert httpx.put(address, content=b"evil").is_success
    with pytest.raises(StoreError, match="not a file of a store"):
        here.pull("raw")
    assert not list(tmp_path.rglob("evil*"))


def test_bad_stores_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for uri in ("ftp://host/x", "s3://", "s3:///x", "s3://bucket/../x"):
        with pytest.raises(ParameterError, match="neither a folder nor the URI of a bucket"):
            Layout.of(uri)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://store.example")
    with pytest.raises(ParameterError, match="use https"):
        Layout.of(URI)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
    monkeypatch.setenv("DISTRUST_MIRROR", str(tmp_path))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StoreError, match="cannot be reached"):
        Layout.of(URI).pull("raw")
