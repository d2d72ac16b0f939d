"""Links in a store lead no writing and no deleting out of it; where they are only read, the hashes decide."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow.fs import S3FileSystem

from storage.atomic import atomic_folder, remove_temporaries, write_text
from storage.checkpoint import damaged_files, list_checkpoints, prune_checkpoints, write_checkpoint
from storage.errors import StoreError
from storage.layout import Layout
from storage.manifest import MANIFEST, Manifest, find_damage, record_shard, write_manifest
from storage.parquet import write_shard
from storage.retention import RetentionParameters, plan_removals, remove
from storage.safe_paths import is_own_file
from tests.bucket import BUCKET
from tests.bucket import bucket as bucket

SCHEMA = pa.schema([pa.field("n", pa.int64(), nullable=False)])


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder outside of every store, with one precious file; it is the same after the test."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "precious").write_text("precious")
    return folder


@pytest.fixture(autouse=True)
def unharmed(outside: Path) -> Iterator[None]:
    yield
    assert [path.name for path in outside.iterdir()] == ["precious"]
    assert (outside / "precious").read_text() == "precious"


def save(run: Path, step: int) -> Path:
    return write_checkpoint(run, step, lambda folder: write_text(folder / "tensors", f"of step {step}"), {"step": step})


def test_a_file_replaces_a_link_and_not_its_target(outside: Path, tmp_path: Path) -> None:
    file = tmp_path / "store" / "plan.json"
    file.parent.mkdir()
    file.symlink_to(outside / "precious")
    write_text(file, "plan")
    assert file.read_text() == "plan" and not file.is_symlink()


@pytest.mark.parametrize("target", [".", "precious", "nowhere"])
def test_a_folder_replaces_a_link_and_not_its_target(outside: Path, tmp_path: Path, target: str) -> None:
    folder = tmp_path / "store" / "balanced"
    folder.parent.mkdir()
    folder.symlink_to(outside / target)
    with atomic_folder(folder) as temporary:
        (temporary / "a").write_text("a")
    assert (folder / "a").read_text() == "a" and not folder.is_symlink()
    assert [path.name for path in folder.parent.iterdir()] == ["balanced"]


def test_what_a_kill_left_goes_without_what_it_leads_to(outside: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    (store / ".tmp-1-folder").mkdir(parents=True)
    (store / ".tmp-1-folder" / "link").symlink_to(outside)
    (store / ".tmp-2-link").symlink_to(outside)
    (store / ".tmp-3-link").symlink_to(outside / "precious")
    assert remove_temporaries(store) == 3
    assert list(store.iterdir()) == []


def test_pruning_a_linked_checkpoint_takes_the_link_away(outside: Path, tmp_path: Path) -> None:
    elsewhere, run = tmp_path / "elsewhere", tmp_path / "run"
    moved = save(elsewhere, 1)
    run.mkdir()
    (run / "checkpoint-1").symlink_to(moved)
    save(run, 2)
    assert [step for step, _ in list_checkpoints(run)] == [1, 2], "a checkpoint may lie on another disk"
    assert prune_checkpoints(run, keep_last=1) == [1]
    assert [path.name for path in run.iterdir()] == ["checkpoint-2"]
    assert damaged_files(moved) == []


def test_a_checkpoint_whose_file_leads_to_something_else_is_damaged(outside: Path, tmp_path: Path) -> None:
    folder = save(tmp_path / "run", 1)
    (folder / "tensors").unlink()
    (folder / "tensors").symlink_to(outside / "precious")
    assert damaged_files(folder) == ["tensors"]


def test_a_shard_that_leads_to_something_else_is_damaged(outside: Path, tmp_path: Path) -> None:
    shard = tmp_path / "raw" / "shard-00000.parquet"
    write_shard(shard, pa.table({"n": [1, 2]}, SCHEMA), SCHEMA)
    manifest = Manifest(kind="raw", name="raw", shards=[record_shard(shard.parent, shard)])
    elsewhere = shard.rename(tmp_path / "elsewhere.parquet")
    shard.symlink_to(elsewhere)
    assert find_damage(shard.parent, manifest, hashes=True) == [], "the same bytes may lie on another disk"
    shard.unlink()
    shard.symlink_to(outside / "precious")
    assert find_damage(shard.parent, manifest, hashes=True) == [shard.name]


def test_pruning_a_store_passes_links_over(outside: Path, tmp_path: Path) -> None:
    layout, elsewhere = Layout(tmp_path / "store"), tmp_path / "elsewhere"
    layout.run("a").mkdir(parents=True)
    for step in (1, 2, 3, 4):
        save(layout.run("a") if step > 1 else elsewhere, step)
    (layout.run("a") / "checkpoint-1").symlink_to(elsewhere / "checkpoint-1")
    (layout.run("a") / "checkpoint-2" / "link").symlink_to(outside)
    (layout.root / "exports").symlink_to(outside)
    (layout.root / "raw").mkdir()
    (layout.root / "set-aside" / "raw").mkdir(parents=True)
    (layout.root / "set-aside" / "raw" / "link").symlink_to(outside)
    (layout.root / "raw" / ".tmp-01234567-link").symlink_to(outside)
    keep = RetentionParameters(keep_days=0, leftover_hours=0)
    (removal,) = plan_removals(layout, keep)
    assert removal.path == layout.run("a") / "checkpoint-2"
    assert remove(layout, removal, keep) and not removal.path.exists()
    assert damaged_files(elsewhere / "checkpoint-1") == []


def test_own_files_are_told_from_links(outside: Path, tmp_path: Path) -> None:
    folder = tmp_path / "export"
    (folder / "peft").mkdir(parents=True)
    for name in ("a", "peft/b"):
        (folder / name).write_text("own")
        assert is_own_file(folder, name)
    (folder / "c").symlink_to(outside / "precious")
    (folder / "d").symlink_to(outside)
    (folder / "e").symlink_to(folder / "a")
    assert not any(is_own_file(folder, name) for name in ("c", "d/precious", "e", "peft", "missing"))
    (tmp_path / "named").symlink_to(folder)
    assert is_own_file(tmp_path / "named", "a"), "the folder itself may be reached through a link"


def test_a_store_may_be_a_link_to_another_disk(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "data").symlink_to(tmp_path / "disk")
    assert Layout.of(str(tmp_path / "data")).root == tmp_path / "disk"


class TestMirror:
    """Links in the mirror of a bucket: through them nothing of this machine goes up, and nothing comes down."""

    @pytest.fixture
    def layout(self, bucket: S3FileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
        monkeypatch.setenv("DISTRUST_MIRROR", str(tmp_path / "mirror"))
        layout = Layout.of(f"s3://{BUCKET}/corpus")
        write_manifest(layout.raw("books"), Manifest(kind="raw", name="books", shards=[]))
        layout.push("raw")
        return layout

    @pytest.mark.parametrize("place", ["raw/books/more", "raw/books/more.parquet", "raw/other", "scored"])
    def test_nothing_is_taken_to_the_bucket(
        self, layout: Layout, outside: Path, bucket: S3FileSystem, place: str
    ) -> None:
        link = layout.root / place
        link.symlink_to(outside / "precious" if link.suffix else outside)
        with pytest.raises(StoreError, match=r"is a link.*remove it"):
            layout.push("raw", "scored")
        assert bucket.get_file_info(f"{BUCKET}/corpus/{place}/precious").type.name == "NotFound"
        assert bucket.get_file_info(f"{BUCKET}/corpus/{place}").type.name == "NotFound"
        assert bucket.get_file_info(f"{BUCKET}/corpus/raw/books/{MANIFEST}").is_file, "what was there stays"

    @pytest.mark.parametrize("place", ["raw/books", "raw"])
    def test_nothing_is_written_through_a_folder(self, layout: Layout, outside: Path, place: str) -> None:
        (layout.root / place).rename(layout.root / "moved")
        (layout.root / place).symlink_to(outside)
        with pytest.raises(StoreError, match=r"is a link.*remove it"):
            layout.pull("raw")

    def test_a_link_in_place_of_a_file_is_replaced(self, layout: Layout, outside: Path) -> None:
        manifest = layout.raw("books") / MANIFEST
        manifest.unlink()
        manifest.symlink_to(outside / "precious")
        layout.pull("raw")
        assert not manifest.is_symlink() and manifest.read_text().startswith("{")
