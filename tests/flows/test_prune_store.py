"""Pruning against a real Prefect server."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.prune_store import prune_store
from storage.checkpoint import list_checkpoints, write_checkpoint
from storage.layout import Layout
from tests.flows import newest_artifact, summarise

pytestmark = pytest.mark.prefect


async def test_it_tells_first_and_removes_on_request(tmp_path: Path, prefect_server: None) -> None:
    run = Layout(tmp_path).run("a")
    for step in range(1, 5):
        write_checkpoint(run, step, lambda folder: None, {})
    told = await prune_store(store=str(tmp_path))
    assert len(list_checkpoints(run)) == 4, "a dry run is the default"
    text = summarise(told)
    assert "2 entries" in text and "would go" in text and "--no-dry-run removes it" in text
    assert "| runs/a/checkpoint-1 | checkpoint |" in (shown := (await newest_artifact("pruned-store")).data)
    assert "Nothing was removed" in shown

    done = await prune_store(store=str(tmp_path), dry_run=False)
    assert [step for step, _ in list_checkpoints(run)] == [3, 4]
    assert "removed" in summarise(done) and "freed" in (await newest_artifact("pruned-store")).data
    assert (await prune_store(store=str(tmp_path), dry_run=False)).entries == ()
