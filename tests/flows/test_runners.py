"""Scoring and mixtures on pools of processes and on Dask clusters of this machine: the same bytes, whoever dies."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import multiprocessing
import os
import pickle
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import distributed
import pytest

from flows.rebalance_corpus import rebalance_corpus
from flows.score_corpus import score_corpus
from storage.errors import ParameterError, PrerequisiteError
from storage.manifest import read_manifest
from storage.runner_parameters import RunnerParameters
from tasks import runners
from tasks.runners import checked_scheduler, open_runner
from tasks.signals.custom import load_signal
from tests.tasks.mixture.corpora import balanced_sources, make_corpus

DASK = pytest.param("dask", marks=pytest.mark.drill)


@pytest.fixture(autouse=True)
def _sockets_of_dask() -> Iterator[None]:
    """Dask leaves sockets to the garbage collector, whose complaint would fall upon a later test."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def digests(folder: Path) -> dict[str, str]:
    files = sorted(folder.rglob("*.parquet"))
    assert files
    assert not [file for file in files if file.name.startswith(".")], "half-written files are left"
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


async def score_and_draw(store: Path, **options: Any) -> dict[str, str]:
    """Make a corpus, score it, draw a mixture; return the digests of everything written."""
    make_corpus(store, balanced_sources(), 20)
    await score_corpus(store=str(store), max_conflict_share=1.0, **options)
    await rebalance_corpus(store=str(store), accept_imbalance=True, **options)
    return digests(store)


@pytest.mark.prefect
@pytest.mark.parametrize("runner", ["processes", DASK])
async def test_the_runner_changes_no_byte(runner: str, tmp_path: Path, prefect_server: None) -> None:
    expected = await score_and_draw(tmp_path / "local")
    assert await score_and_draw(tmp_path / runner, runner=runner, workers=2) == expected
    for stage in ("scored/patents", "balanced/default"):
        local, other = (read_manifest(tmp_path / name / stage) for name in ("local", runner))
        assert local is not None and other is not None
        assert local.digest == other.digest


@pytest.mark.drill
@pytest.mark.prefect
@pytest.mark.parametrize("runner", ["processes", "dask"])
async def test_a_killed_worker_loses_nothing(
    runner: str, tmp_path: Path, prefect_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLOW_SIGNAL_SECONDS", "0.3")
    store = tmp_path / "store"
    make_corpus(store, balanced_sources(), 20)
    begun = time.time_ns()

    def scored() -> list[Path]:
        return [path for path in (store / "scored").rglob("shard-*") if path.stat().st_mtime_ns > begun]

    async def kill_one() -> int:
        while not scored():
            await asyncio.sleep(0.05)
        victim = multiprocessing.active_children()[-1].pid
        assert victim
        os.kill(victim, signal.SIGKILL)
        return len(scored())

    killing = asyncio.create_task(kill_one())
    options = {"signal": "tests.slow_signal:score", "max_conflict_share": 1.0}
    await score_corpus(store=str(store), runner=runner, workers=2, **options)
    assert await killing < len(scored())
    expected = tmp_path / "local"
    make_corpus(expected, balanced_sources(), 20)
    monkeypatch.setattr("tests.slow_signal.SECONDS_PER_SHARD", 0.0)
    await score_corpus(store=str(expected), **options)
    assert digests(store / "scored") == digests(expected / "scored")


@pytest.mark.drill
@pytest.mark.prefect
async def test_a_cluster_that_runs_already_is_used(tmp_path: Path, prefect_server: None) -> None:
    expected = await score_and_draw(tmp_path / "local")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        options = {"runner": "dask", "dask_address": cluster.scheduler_address, "workers": 2}
        assert await score_and_draw(tmp_path / "cluster", **options) == expected


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        ("10.0.0.5:8786", "not a scheduler"),
        ("tls://10.0.0.5", "not a scheduler"),
        ("tcp://10.0.0.5:8786", "not encrypted"),
        ("http://127.0.0.1:8786", "not a scheduler"),
        ("tcp://127.0.0.1:99999", "not a scheduler"),
    ],
)
def test_an_unsafe_or_wrong_scheduler_is_refused(address: str, complaint: str) -> None:
    with pytest.raises(ParameterError, match=complaint):
        checked_scheduler(address)


def test_a_scheduler_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for address in ("tls://10.0.0.5:8786", "tcp://127.0.0.1:8786", "tcp://localhost:8786"):
        assert checked_scheduler(address) == address
    monkeypatch.setattr(runners, "CONNECT_SECONDS", "0.5s")
    chosen = RunnerParameters(runner="dask", dask_address="tcp://127.0.0.1:9")
    with pytest.raises(PrerequisiteError, match=r"no Dask scheduler answers .*127\.0\.0\.1:9"), open_runner(chosen):
        pass
    monkeypatch.setitem(sys.modules, "prefect_dask.task_runners", None)
    with pytest.raises(PrerequisiteError, match="--extra dask"), open_runner(RunnerParameters(runner="dask")):
        pass


def test_a_signal_travels_by_name_and_only_from_the_same_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "travelling_signal.py"
    module.write_text("def score(documents):\n    return {'auth_weight': [0.5] * documents.num_rows}\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    packed = pickle.dumps(load_signal("travelling_signal:score", "join"))
    there = pickle.loads(packed)
    assert (there.name, there.mode) == ("travelling_signal:score", "join")
    module.write_text(module.read_text("utf-8").replace("0.5", "0.25"), "utf-8")
    with pytest.raises(ParameterError, match="another source here"):
        pickle.loads(packed)
