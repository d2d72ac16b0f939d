"""Rebalancing against a real Prefect server: what runs leave to one another."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from flows.rebalance_corpus import rebalance_corpus
from tests.tasks.mixture.corpora import balanced_sources, make_corpus

pytestmark = pytest.mark.prefect


async def test_two_at_once_build_one_mixture_and_sweep_what_a_killed_one_left(
    tmp_path: Path, prefect_server: None
) -> None:
    make_corpus(tmp_path, balanced_sources(), 20)
    killed, other = (tmp_path / "balanced" / f".tmp-0123abcd-{name}" for name in ("default", "my-default"))
    for leftover in (killed, other):
        (leftover / "train").mkdir(parents=True)
    runs = [rebalance_corpus(store=str(tmp_path), accept_imbalance=True) for _ in range(2)]
    first, second = await asyncio.gather(*runs)
    assert sorted([first["reused"], second["reused"]]) == [False, True]
    assert first["digest"] == second["digest"]
    assert not killed.exists()
    assert other.exists(), "another mixture's may belong to a run under way"
