"""PostgreSQL dies and comes back while a run goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.access import DATABASE
from storage.manifest import find_damage, read_manifest
from tests.deployments.postgres import Postgres, missing, postgres
from tests.station import Station, until
from tests.tasks.mixture.corpora import balanced_sources, make_corpus

pytestmark = [pytest.mark.drill, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def database() -> Iterator[Postgres]:
    if reason := missing():
        pytest.skip(reason)
    with postgres() as running:
        yield running


@pytest.fixture(scope="module")
def station(database: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Station]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PREFECT_HOME", str(tmp_path_factory.mktemp("prefect")))
        environment.setenv("DISTRUST_BLOCKS", "none-saved")
        environment.setenv(DATABASE, database.url)
        running = Station("data", slots=2)
        yield running
        running.stop()


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_run_goes_on_while_the_database_is_away(
    mode: str, station: Station, database: Postgres, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    make_corpus(store, balanced_sources(), 10)
    begun = time.time_ns()

    def made() -> list[Path]:
        return [path for path in (store / "scored").rglob("shard-*") if path.stat().st_mtime_ns > begun]

    run = station.start_run("score-corpus", {"store": str(store), "signal": "tests.slow_signal:score"})
    until(lambda: len(made()) >= 2)
    before = len(made())
    database.stop(mode)
    time.sleep(5)
    database.start()

    def ended() -> str:
        return str(until(lambda: (state := station.state(run)) in ("COMPLETED", "FAILED", "CRASHED") and state, 180))

    assert ended() == "COMPLETED"
    assert len(made()) > before, "it was under way when the database went"
    assert database.ask(f"select state_type from flow_run where id = '{run}'") == "COMPLETED"
    for folder in (store / "scored").iterdir():
        manifest = read_manifest(folder)
        assert manifest is not None and find_damage(folder, manifest, hashes=True) == []
    assert station.server.poll() is None and station.worker.poll() is None, "server and worker were not restarted"
