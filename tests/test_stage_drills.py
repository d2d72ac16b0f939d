"""Scoring, rebalancing and export under a real server and worker: killed, cancelled, run twice at once."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deployments import server
from storage.lock import only_writer
from storage.manifest import find_damage, read_manifest
from tests.flows.test_export_model import write_run
from tests.station import ROOT, Station, processes_of, running_station, until
from tests.tasks.mixture.corpora import balanced_sources, make_corpus

pytestmark = [pytest.mark.drill, pytest.mark.timeout(1200)]

SHARD_DOCUMENTS = 20
SLOW_SIGNAL = "tests.slow_signal:score"


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Station]:
    with running_station(tmp_path_factory.mktemp("prefect")) as running:
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with four sources, downloaded and scored."""
    make_corpus(tmp_path / "store", balanced_sources(), SHARD_DOCUMENTS)
    return tmp_path / "store"


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every Parquet file below a folder."""
    files = sorted(folder.rglob("*.parquet"))
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def check_sealed(stage: Path) -> None:
    """Every dataset of a stage is whole, and nothing half-written lies about."""
    for folder in (path for path in stage.iterdir() if path.is_dir()):
        manifest = read_manifest(folder)
        assert manifest is not None and find_damage(folder, manifest, hashes=True) == []
    assert not list(stage.rglob(".tmp-*"))


async def run_flow(station: Station, flow: str, **options: Any) -> asyncio.subprocess.Process:
    """Start a flow from the command line, in a session of its own."""
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "flows", flow, *words),
        cwd=ROOT,
        env=server.client_environment(station.port),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )


async def finished(process: asyncio.subprocess.Process) -> None:
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()


def test_scoring_killed_cancelled_and_robbed_of_its_worker_scores_every_document_once(
    station: Station, store: Path
) -> None:
    scored = store / "scored"
    parameters = {"store": str(store), "signal": SLOW_SIGNAL}

    def made() -> dict[Path, int]:
        """Shards scored with the slow signal, and when."""
        return {path: path.stat().st_mtime_ns for path in scored.rglob("shard-*") if path.stat().st_mtime_ns > begun}

    begun = time.time_ns()

    def begin() -> str:
        before = len(made())
        run = station.start_run("score-corpus", parameters)
        until(lambda: len(made()) >= before + 2)
        return run

    killed = begin()
    (process,) = station.flow_processes()
    os.kill(process, signal.SIGKILL)
    assert station.ended(killed) == "CRASHED"
    after_kill = made()

    cancelled = begin()
    station.cancel(cancelled)
    assert station.ended(cancelled) == "CANCELLED"

    orphan = begin()
    os.killpg(station.worker.pid, signal.SIGKILL)
    station.worker.wait()
    assert station.ended(orphan) == "CRASHED"
    station.start_worker()

    survivor = begin()
    station.kill_server()
    time.sleep(3)
    station.start_server()
    assert station.ended(survivor) == "COMPLETED"
    # Prefect sends the states of tasks as events, and those that a killed server had in its hands are lost
    # (docs/log.md): the run's own state, its artifacts and the store are what is sure.
    assert "COMPLETED" in station.task_states(survivor).values()
    assert {path: made()[path] for path in after_kill} == after_kill, "nothing was scored twice"
    check_sealed(scored)


def test_a_failed_shard_is_retried_in_the_ui(
    store: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    fails = tmp_path / "fails"
    fails.write_text("novels", "utf-8")
    with running_station(
        tmp_path_factory.mktemp("prefect"), SLOW_SIGNAL_FAILS=str(fails), SLOW_SIGNAL_SECONDS="0"
    ) as station:
        run = station.start_run("score-corpus", {"store": str(store), "signal": SLOW_SIGNAL})
        assert station.ended(run) == "FAILED"
        until(lambda: "not to be scored yet" in station.log(run))  # it is sent in batches
        failed = [name for name, state in station.task_states(run).items() if state == "FAILED"]
        assert failed and all("novels" in name for name in failed), failed
        slow = {path: path.stat().st_mtime_ns for path in (store / "scored").rglob("shard-*")}

        fails.unlink()
        station.retry(run)
        until(lambda: station.state(run) != "FAILED")
        assert station.ended(run) == "COMPLETED"
        check_sealed(store / "scored")
        now = {path: path.stat().st_mtime_ns for path in (store / "scored").rglob("shard-*")}
        again = {path.parent.name for path, moment in now.items() if slow.get(path) != moment}
        assert again == {"novels"}, "what was scored is not scored again"


async def test_two_scorings_at_once_agree(station: Station, store: Path, tmp_path: Path) -> None:
    make_corpus(tmp_path / "straight", balanced_sources(), SHARD_DOCUMENTS)
    await finished(await run_flow(station, "score-corpus", store=tmp_path / "straight"))
    both = [await run_flow(station, "score-corpus", store=store) for _ in range(2)]
    await asyncio.gather(*map(finished, both))
    check_sealed(store / "scored")
    assert digests(store / "scored") == digests(tmp_path / "straight" / "scored")


async def test_a_mixture_killed_cancelled_and_drawn_twice_is_the_mixture(
    station: Station, store: Path, tmp_path: Path
) -> None:
    seed = int(os.environ.get("KILL_SEED", time.time_ns() % 1_000_000))
    print(f"KILL_SEED={seed}")
    balanced = store / "balanced" / "default"
    for _ in range(2):
        process = await run_flow(station, "rebalance-corpus", store=store)
        lock = balanced.parent / ".default.lock"
        while not lock.exists():
            await asyncio.sleep(0.02)
        await asyncio.sleep(random.Random(seed).uniform(0.0, 0.6))
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        lock.unlink()
        assert balanced.is_dir() == (balanced / "manifest.json").is_file(), "whole or not at all"

    with only_writer(balanced):
        waiting = station.start_run("rebalance-corpus", {"store": str(store)})
        await asyncio.to_thread(until, lambda: "build-mixture-default" in station.task_states(waiting))
        station.cancel(waiting)
        assert await asyncio.to_thread(station.ended, waiting) == "CANCELLED"

    both = [await run_flow(station, "rebalance-corpus", store=store) for _ in range(2)]
    await asyncio.gather(*map(finished, both))
    manifest = read_manifest(balanced)
    assert manifest is not None and find_damage(balanced, manifest, hashes=True) == []

    make_corpus(tmp_path / "straight", balanced_sources(), SHARD_DOCUMENTS)
    await finished(await run_flow(station, "rebalance-corpus", store=tmp_path / "straight"))
    assert digests(balanced) == digests(tmp_path / "straight" / "balanced" / "default")


async def test_an_export_killed_and_made_twice_is_the_export(station: Station, tmp_path: Path) -> None:
    seed = int(os.environ.get("KILL_SEED", time.time_ns() % 1_000_000))
    print(f"KILL_SEED={seed}")
    store = write_run(tmp_path)
    exports, specification = store / "exports", store / "runs" / "tiny" / "export.json"
    moments, kills = random.Random(seed), 0
    while kills < 2:
        process = await run_flow(station, "export-model", store=store, run="tiny", gguf="q8_0")
        while not specification.exists():
            await asyncio.sleep(0.02)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), moments.uniform(0.2, 3.5))
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            kills += 1
        specification.unlink()
        await asyncio.to_thread(until, lambda: not processes_of(str(specification)), 30)
        assert not (exports / "tiny").exists() or (exports / "tiny" / "config.json").is_file(), "whole or not at all"
        shutil.rmtree(exports / "tiny", ignore_errors=True)  # one made in time would leave the next run nothing to do

    both = [await run_flow(station, "export-model", store=store, run="tiny", gguf="q8_0") for _ in range(2)]
    await asyncio.gather(*map(finished, both))
    await finished(await run_flow(station, "export-model", store=store, run="tiny", gguf="q8_0", export="straight"))

    def weights(name: str) -> dict[str, str]:
        files = [*(exports / name).glob("*.safetensors"), *(exports / name).glob("*.gguf")]
        return {file.suffix: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}

    assert len(weights("tiny")) == 2
    assert weights("tiny")[".safetensors"] == weights("straight")[".safetensors"]
    assert not list(exports.glob(".tmp-*"))
