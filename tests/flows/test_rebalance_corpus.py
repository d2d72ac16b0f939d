"""Rebalancing against a real Prefect server: what runs leave to one another."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from flows.rebalance_corpus import rebalance_corpus
from storage.manifest import find_damage, require_manifest
from tests.flows import newest_artifact, summarise
from tests.tasks.mixture.corpora import balanced_sources, make_corpus

pytestmark = pytest.mark.prefect


async def test_a_mixture_that_lost_a_shard_is_made_again(tmp_path: Path, prefect_server: None) -> None:
    make_corpus(tmp_path, balanced_sources(), 100)
    first = await rebalance_corpus(store=str(tmp_path))
    folder = tmp_path / "balanced" / "default"
    (folder / require_manifest(folder, "").shards[0].file).unlink()
    again = await rebalance_corpus(store=str(tmp_path))
    assert not again.reused and again.digest == first.digest
    assert find_damage(folder, require_manifest(folder, ""), hashes=True) == []
    assert (await rebalance_corpus(store=str(tmp_path))).reused


async def test_the_distribution_is_shown_as_markdown(tmp_path: Path, prefect_server: None) -> None:
    make_corpus(tmp_path, balanced_sources(), 100)
    result = await rebalance_corpus(store=str(tmp_path), piece_chars=200, max_pieces=2)
    shown = str((await newest_artifact("mixture-distribution")).data).splitlines()
    assert shown[0] == "## Mixture `default`"
    for line in filter(None, result.distribution.splitlines()):
        assert line in shown or f"- {line}" in shown, "columns as they are, sentences in a list"
    for part in ("training and", "Cut: ", "Limited: ", "Low authority (<0.3):", "Mean: ", " bits ✓"):
        assert part in result.distribution
    assert result.distribution.splitlines() == summarise(result).splitlines()[1:]


async def test_two_at_once_build_one_mixture_and_sweep_what_a_killed_one_left(
    tmp_path: Path, prefect_server: None
) -> None:
    make_corpus(tmp_path, balanced_sources(), 20)
    killed, other = (tmp_path / "balanced" / f".tmp-0123abcd-{name}" for name in ("default", "my-default"))
    for leftover in (killed, other):
        (leftover / "train").mkdir(parents=True)
    runs = [rebalance_corpus(store=str(tmp_path), accept_imbalance=True) for _ in range(2)]
    first, second = await asyncio.gather(*runs)
    assert sorted([first.reused, second.reused]) == [False, True]
    assert first.digest == second.digest
    assert not killed.exists()
    assert other.exists(), "another mixture's may belong to a run under way"
