"""PostgreSQL dies and comes back while a data stage and a training go on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.access import DATABASE
from tests.deployments.postgres import Postgres
from tests.deployments.postgres import database as database
from tests.stages import STAGES
from tests.station import Station, until

pytestmark = [pytest.mark.drill, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def station(database: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Station]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PREFECT_HOME", str(tmp_path_factory.mktemp("prefect")))
        environment.setenv("DISTRUST_BLOCKS", "none-saved")
        environment.setenv(DATABASE, database.url)
        running = Station("data", slots=2)
        yield running
        running.stop()


def state(database: Postgres, run: str) -> str:
    return database.ask(f"select state_type from flow_run where id = '{run}'")


def restart(database: Postgres, run: str, mode: str) -> None:
    """Take the database away for some seconds from a run that is at work."""
    assert state(database, run) == "RUNNING"
    database.stop(mode)
    time.sleep(5)
    database.start()


def check_survived(station: Station, database: Postgres, run: str) -> None:
    ends = ("COMPLETED", "FAILED", "CRASHED")
    assert until(lambda: (now := station.state(run)) in ends and now, 180) == "COMPLETED"
    assert state(database, run) == "COMPLETED"
    assert station.server.poll() is None and station.worker.poll() is None, "server and worker were not restarted"


@pytest.mark.parametrize(("name", "mode"), [("score-corpus", "fast"), ("train-adapter", "immediate")])
def test_a_run_goes_on_while_the_database_is_away(
    name: str, mode: str, station: Station, database: Postgres, tmp_path: Path
) -> None:
    stage = STAGES[name]
    store = stage.prepare(tmp_path)
    under_way = stage.watch(store)
    run = station.start_run(stage.flow, stage.parameters(store) | {"store": str(store)})
    until(under_way)
    restart(database, run, mode)
    check_survived(station, database, run)
    assert stage.made(store)
