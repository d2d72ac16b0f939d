"""Pruning against a real Prefect server."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

from flows.prune_store import prune_store
from storage.checkpoint import list_checkpoints, write_checkpoint
from storage.layout import Layout
from tests.flows import summarise

pytestmark = pytest.mark.prefect


async def shown() -> str:
    async with get_client() as client:
        found = await client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["pruned-store"]))
        )
    return str(max(found, key=lambda artifact: artifact.created).data)


async def test_it_tells_first_and_removes_on_request(tmp_path: Path, prefect_server: None) -> None:
    run = Layout(tmp_path).run("a")
    for step in range(1, 5):
        write_checkpoint(run, step, lambda folder: None, {})
    told = await prune_store(store=str(tmp_path))
    assert len(list_checkpoints(run)) == 4, "a dry run is the default"
    text = summarise(told)
    assert "2 entries" in text and "would go" in text and "--no-dry-run removes it" in text
    assert "| runs/a/checkpoint-1 | checkpoint |" in await shown() and "Nothing was removed" in await shown()

    done = await prune_store(store=str(tmp_path), dry_run=False)
    assert [step for step, _ in list_checkpoints(run)] == [3, 4]
    assert "removed" in summarise(done) and "freed" in await shown()
    assert (await prune_store(store=str(tmp_path), dry_run=False)).entries == ()
