"""`make up` and `make down`: what is at work stays at work, and what cannot be stopped is told."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deployments import __main__ as commands
from deployments import processes, server
from deployments.access import AUTH, DATABASE, Access, recall, remember
from storage.errors import PrerequisiteError

PORT = 4399
AT_WORK = [sys.executable, "-c", "import time; time.sleep(600)  # a process of prefect"]
PROCESSES: list[subprocess.Popen[bytes]] = []


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home of the test's own; processes that only sleep stand for server and workers."""
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    for name in (AUTH, DATABASE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "environ", dict(os.environ))

    async def apply(**_: Any) -> list[str]:
        return []

    def spawn(name: str, command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        assert environment["PREFECT_HOME"] == str(tmp_path)
        PROCESSES.append(real_spawn(name, AT_WORK, environment))
        return PROCESSES[-1]

    real_spawn = processes.spawn
    monkeypatch.setattr("deployments.apply.apply", apply)
    monkeypatch.setattr(server, "spawn", spawn)
    monkeypatch.setattr(server, "is_healthy", lambda port: processes.is_running("server"))
    monkeypatch.setattr(server, "free_port", lambda wanted: wanted)
    yield tmp_path
    for name in processes.started_processes():
        processes.stop(name)
    while PROCESSES:
        process = PROCESSES.pop()
        process.kill()
        process.wait()


def ids(home: Path) -> dict[str, str]:
    return {path.stem: path.read_text() for path in home.glob("*.pid")}


def test_up_again_leaves_alone_what_is_at_work(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands.up(Access(port=PORT))
    first = ids(home)
    assert set(first) == {"server", "worker-data", "worker-mac"}
    commands.up(Access(port=PORT))
    assert ids(home) == first, "stopping a worker would have ended its runs"
    assert "as it was" in capsys.readouterr().out

    processes.stop("worker-data")
    commands.up(Access(port=PORT))
    again = ids(home)
    assert {name for name in first if again[name] != first[name]} == {"worker-data"}

    processes.stop("server")  # a server that comes back finds the runs of the workers that outlived it
    commands.up(Access(port=PORT))
    last = ids(home)
    assert {name for name in again if last[name] != again[name]} == {"server"}


def test_workers_follow_their_server_to_another_address(home: Path) -> None:
    commands.up(Access(port=PORT))
    first = ids(home)
    processes.stop("server")
    commands.up(Access(port=PORT + 1, auth="me:secret"))
    assert not set(first.values()) & set(ids(home).values())


def test_down_stops_all_and_refuses_where_a_server_that_it_did_not_start_runs_on(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands.up(Access(port=PORT))
    commands.down()
    assert ids(home) == {}
    commands.down()

    monkeypatch.setattr(server, "is_healthy", lambda port: True)  # a service: it leaves no process id here
    with pytest.raises(PrerequisiteError, match=rf"{PORT}.*uninstall-server"):
        commands.down()
    server.start_worker("data", "data", PORT)
    with pytest.raises(PrerequisiteError):
        commands.down()
    assert ids(home) == {}, "what was started here is stopped all the same"


@pytest.mark.parametrize(
    "known",
    [
        Access(url="https://office.example:4200/api", auth="me:secret"),
        Access(port=4200, auth="team:secret", database="postgresql+asyncpg://prefect@127.0.0.1/prefect"),
    ],
)
def test_a_server_for_one_run_leaves_the_record_of_the_other_as_it_was(home: Path, known: Access) -> None:
    remember(home, known)
    with pytest.raises(KeyboardInterrupt), server.local_server(PORT) as port:
        assert server.api_url(port) == f"http://127.0.0.1:{PORT}/api"
        raise KeyboardInterrupt
    assert recall(home) == known
    assert not processes.is_running("server")


def test_nor_does_one_that_does_not_start(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = Access(url="https://office.example:4200/api")
    remember(home, known)
    monkeypatch.setattr(server, "is_healthy", lambda port: False)
    monkeypatch.setattr(server, "START_TIMEOUT_SECONDS", 0.1)
    with pytest.raises(PrerequisiteError, match="did not start"), server.local_server(PORT):
        pass
    assert recall(home) == known


def test_without_a_record_the_last_server_is_remembered(home: Path) -> None:
    with server.local_server(PORT):
        pass
    assert recall(home) == Access(port=PORT)
