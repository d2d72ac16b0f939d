"""The data stages on a store in a bucket, and a second machine that goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pyarrow.fs import FileSelector, S3FileSystem

from flows.compare_recipes import compare_recipes
from flows.download_corpus import download_corpus
from flows.rebalance_corpus import rebalance_corpus
from flows.score_corpus import score_corpus
from storage.errors import StoreError, UserError
from storage.layout import Layout
from storage.manifest import find_damage, read_manifest
from tests.bucket import BUCKET
from tests.bucket import bucket as bucket
from tests.flows.test_stages import KINDS, write_documents

pytestmark = pytest.mark.prefect

URI = f"s3://{BUCKET}/corpus"


def sealed(layout: Layout) -> dict[str, bytes]:
    """The manifests of a store, once their shards were seen to be whole."""
    found = {}
    for path in sorted(layout.root.glob("*/*/manifest.json")):
        manifest = read_manifest(path.parent)
        assert manifest is not None and find_damage(path.parent, manifest, hashes=True) == []
        found[str(path.relative_to(layout.root))] = path.read_bytes()
    return found


async def test_a_comparison_reaches_the_bucket_even_if_its_runs_fail(
    bucket: S3FileSystem, tmp_path: Path, prefect_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def train_adapter(**fields: Any) -> None:
        raise StoreError("there is no mixture")

    monkeypatch.setattr("flows.compare_recipes.train_adapter", train_adapter)
    monkeypatch.setenv("DISTRUST_MIRROR", str(tmp_path / "first"))
    with pytest.raises(UserError, match="1 of 1 runs failed"):
        await compare_recipes(store=URI, run="swept", alphas=[2.7])
    names = {f"comparisons/swept/{name}" for name in ("comparison.json", "comparison.md", "compare-recipes.toml")}
    found = bucket.get_file_info(FileSelector(f"{BUCKET}/corpus/comparisons", recursive=True))
    assert {info.path.removeprefix(f"{BUCKET}/corpus/") for info in found if info.is_file} == names


async def test_a_second_machine_takes_up_what_the_first_one_sealed(
    bucket: S3FileSystem, tmp_path: Path, prefect_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue = write_documents(tmp_path / "documents", 40)
    monkeypatch.setenv("DISTRUST_MIRROR", str(tmp_path / "first"))
    await download_corpus(store=URI, catalogue=str(catalogue), sources=list(KINDS), max_samples=40)
    first = Layout.of(URI)

    monkeypatch.setenv("DISTRUST_MIRROR", str(tmp_path / "second"))
    again = await download_corpus(store=URI, catalogue=str(catalogue), sources=list(KINDS), max_samples=40)
    assert all(source.reused and source.documents == 40 for source in again.sources)
    await score_corpus(store=URI)
    await rebalance_corpus(store=URI, near_duplicates=False)
    second = Layout.of(URI)

    monkeypatch.setenv("DISTRUST_MIRROR", str(tmp_path / "first"))
    first.pull("raw", "scored", "balanced")
    assert first.root != second.root
    assert sealed(first) == sealed(second)
    assert list(sealed(first)) == sorted(
        [f"{stage}/{name}/manifest.json" for stage in ("raw", "scored") for name in KINDS]
        + ["balanced/default/manifest.json"]
    )
    again = await rebalance_corpus(store=URI, near_duplicates=False)
    assert again.reused
