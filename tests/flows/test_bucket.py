"""The data stages on a store in a bucket, and a second machine that goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyarrow.fs import S3FileSystem

from flows.download_corpus import download_corpus
from flows.rebalance_corpus import rebalance_corpus
from flows.score_corpus import score_corpus
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


async def test_a_second_machine_takes_up_what_the_first_one_sealed(
    bucket: S3FileSystem, tmp_path: Path, prefect_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue = write_documents(tmp_path / "documents", 40)
    monkeypatch.setenv("DISTRUST_MIRROR", str(tmp_path / "first"))
    await download_corpus(store=URI, catalogue=str(catalogue), sources=list(KINDS), max_samples=40)
    first = Layout.of(URI)

    monkeypatch.setenv("DISTRUST_MIRROR", str(tmp_path / "second"))
    again = await download_corpus(store=URI, catalogue=str(catalogue), sources=list(KINDS), max_samples=40)
    assert all(source["reused"] and source["documents"] == 40 for source in again["sources"])
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
    assert again["reused"]
