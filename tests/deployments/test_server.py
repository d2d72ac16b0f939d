"""`make up` for a team: a database of its own, a password, and a door that is shut."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from deployments import processes, server
from deployments.access import AUTH, DATABASE
from tests.deployments.postgres import PASSWORD, Postgres
from tests.deployments.postgres import database as database

pytestmark = [pytest.mark.drill, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]
SECRET = "hunter2-of-this-test"


@pytest.fixture(scope="module")
def team(database: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`make up` with PostgreSQL and a password; yields what it printed."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PREFECT_HOME", str(tmp_path_factory.mktemp("prefect")))
        environment.setenv(AUTH, f"team:{SECRET}")
        environment.setenv(DATABASE, database.url)
        environment.delenv("PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED", raising=False)
        command = [sys.executable, "-m", "deployments", "up", "--port", str(server.free_port(0))]
        answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        try:
            assert answer.returncode == 0, answer.stdout + answer.stderr
            yield answer.stdout + answer.stderr
        finally:
            subprocess.run([sys.executable, "-m", "deployments", "down"], cwd=ROOT, check=True, capture_output=True)


def url(team: str) -> str:
    found = re.search(r"http://\S+/api", team)
    assert found
    return found.group()


def test_everything_is_applied_to_the_teams_database(team: str, database: Postgres) -> None:
    assert "deployment corpus-to-model" in team.replace("  ", " ")
    assert int(database.ask("select count(*) from deployment")) >= 9
    assert int(database.ask("select count(*) from work_pool")) >= 2
    assert not list(processes.home().glob("*.db")), "nothing is kept in SQLite"
    secrets = (SECRET, PASSWORD)
    assert not any(secret in team for secret in secrets)
    listing = subprocess.run(["ps", "-ww", "-eo", "args="], capture_output=True, text=True, check=True).stdout
    assert not any(secret in listing for secret in secrets)
    for log in processes.home().glob("*.log"):
        assert not any(secret in log.read_text() for secret in secrets), log.name


def test_the_door_is_shut_to_strangers_and_to_pages_of_the_browser(team: str) -> None:
    search = f"{url(team)}/flows/filter"
    for stranger in (None, ("team", "wrong")):
        # Reading, writing without a token of the page, asking for that token: all of it needs the password.
        assert httpx.get(f"{url(team)}/version", auth=stranger).status_code == 401
        assert httpx.get(f"{url(team)}/csrf-token", params={"client": "x"}, auth=stranger).status_code == 401
        assert httpx.post(search, json={}, auth=stranger).status_code in (401, 403)
    known = ("team", SECRET)
    refused = httpx.post(search, json={}, auth=known)
    assert refused.status_code == 403 and "CSRF" in refused.text
    with httpx.Client(auth=known, headers={"Prefect-Csrf-Client": "test"}) as client:
        token = client.get(f"{url(team)}/csrf-token", params={"client": "test"}).json()["token"]
        assert client.post(search, json={}, headers={"Prefect-Csrf-Token": token}).status_code == 200


def test_workers_have_come_in(team: str, database: Postgres) -> None:
    from tests.station import until

    until(lambda: int(database.ask("select count(*) from worker where last_heartbeat_time is not null")) >= 2)


def test_up_again_with_another_password_is_refused_and_the_same_changes_nothing(team: str) -> None:
    command = [sys.executable, "-m", "deployments", "up"]
    other = {**os.environ, AUTH: "team:another"}
    answer = subprocess.run(command, cwd=ROOT, env=other, capture_output=True, text=True, check=False)
    assert answer.returncode == 1
    assert "make down" in answer.stderr and "another" not in answer.stderr.replace("another host", "")
