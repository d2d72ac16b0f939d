"""A Prefect server with one worker, for the drills: started, killed and started again at will."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments import processes, server
from tests.prefect_database import give_database

ROOT = Path(__file__).resolve().parent.parent
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
PATIENCE_SECONDS = 300.0
"""How long a drill waits for what must come; a machine with much else to do needs minutes."""


def until(found: Callable[[], Any], seconds: float = PATIENCE_SECONDS, rest: float = 4.0) -> Any:
    """Wait for a value that is true, and return it.

    Args:
        found: What is asked for it.
        seconds: How long it may take to come.
        rest: Pause so many times as long as an answer takes: asking must not be what the machine is busy with.
    """
    deadline = time.monotonic() + seconds
    while True:
        asked = time.monotonic()
        if value := found():
            return value
        answered = time.monotonic()
        assert answered < deadline, f"waited {seconds:.0f} s"
        time.sleep(max(0.1, rest * (answered - asked)))


def processes_of(text: str) -> list[tuple[int, int]]:
    """Process and parent ids of all processes whose command line holds a text."""
    listing = subprocess.run(["ps", "-ww", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True)
    rows = [line.split(None, 2) for line in listing.stdout.splitlines() if text in line]
    return [(int(pid), int(parent)) for pid, parent, _ in rows]


def families_of(*pids: int) -> list[int]:
    """Ids of processes and of all that they have started, the oldest first."""
    return list(dict.fromkeys([*pids, *(child for pid in pids for child in processes.descendants(pid))]))


def send(pids: Iterable[int], sign: signal.Signals) -> None:
    """Send a signal to the processes that are still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, sign)


class Api:
    """A Prefect server, asked as the UI asks it."""

    url: str
    """Address of the server's API."""

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Ask the API, again where its database was locked: so do the UI and Prefect's own client."""

        def answer() -> httpx.Response | None:
            answered = httpx.request(method, f"{self.url}/{path}", json=body, timeout=30)
            return None if answered.status_code == 503 else answered

        answered = until(answer).raise_for_status()
        return answered.json() if answered.content else None

    def post(self, path: str, body: Any) -> Any:
        """Ask the API for something."""
        return self.ask("POST", path, body)

    def state(self, flow_run: str) -> str:
        """The type of a run's state."""
        return str(self.ask("GET", f"flow_runs/{flow_run}")["state"]["type"])

    def message(self, flow_run: str) -> str:
        """What a run's state says in the UI."""
        return str(self.ask("GET", f"flow_runs/{flow_run}")["state"]["message"])

    def log(self, flow_run: str) -> list[str]:
        """The lines that the UI shows of a run's log."""
        body = {"logs": {"flow_run_id": {"any_": [flow_run]}}, "sort": "TIMESTAMP_ASC"}
        return [line["message"] for line in self.post("logs/filter", body)]


class Station(Api):
    """A server and a worker that takes up to two runs of the deployments it is asked for."""

    def __init__(self, pool: str = "mac-train", slots: int = 1) -> None:
        self.pool = pool
        self.port = server.free_port(0)
        self.server = server.start_server(self.port)
        self.url = server.api_url(self.port)
        self.post("work_pools/", {"name": pool, "type": "process", "concurrency_limit": slots})
        self._deployments: dict[str, str] = {}
        self.start_worker()

    def start_worker(self) -> None:
        """Start the worker, again after it was killed."""
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", self.pool, "--type", "process"]
        environment = server.client_environment(self.port) | {"PREFECT_WORKER_QUERY_SECONDS": "2"}
        self.worker = processes.spawn("worker-drill", command, environment)

    def stop_worker(self) -> None:
        """Send the worker what systemd and launchd send, and wait for its end."""
        os.kill(self.worker.pid, signal.SIGTERM)
        self.worker.wait()

    def kill_worker(self) -> None:
        """End the worker's process group as a power cut would."""
        os.killpg(self.worker.pid, signal.SIGKILL)
        self.worker.wait()

    def restart_worker(self) -> None:
        """Start the worker anew, with the environment of this moment."""
        self.stop_worker()
        self.start_worker()

    def kill_server(self) -> None:
        """End the server as a power cut would."""
        os.killpg(self.server.pid, signal.SIGKILL)
        self.server.wait()

    def start_server(self) -> None:
        """Start the server again on the same port and database."""
        self.server = server.start_server(self.port)

    def start_run(self, flow: str, parameters: dict[str, Any]) -> str:
        """Start a run of a flow on the worker, as the form of the UI does; return its id."""
        if flow not in self._deployments:
            attribute = flow.replace("-", "_")
            deployment = {
                "name": flow,
                "flow_id": self.post("flows/", {"name": flow})["id"],
                "work_pool_name": self.pool,
                "entrypoint": f"flows.{attribute}.{attribute}",
                "pull_steps": [{"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}],
                "enforce_parameter_schema": False,
            }
            self._deployments[flow] = self.post("deployments/", deployment)["id"]
        run = self.post(f"deployments/{self._deployments[flow]}/create_flow_run", {"parameters": parameters})
        return str(run["id"])

    def cancel(self, flow_run: str) -> None:
        """Do what the UI's cancel button does."""
        self.post(f"flow_runs/{flow_run}/set_state", {"state": {"type": "CANCELLING"}})

    def retry(self, flow_run: str) -> None:
        """Do what the UI's retry button does with a run that has ended."""
        state = {"type": "SCHEDULED", "name": "AwaitingRetry", "message": "Retry from the Prefect UI"}
        answer = self.post(f"flow_runs/{flow_run}/set_state", {"state": state})
        assert answer["status"] == "ACCEPT", answer

    def task_states(self, flow_run: str) -> dict[str, str]:
        """The state of every task run of a run, by name."""
        body = {"flow_runs": {"id": {"any_": [flow_run]}}, "limit": 200}
        return {found["name"]: found["state_type"] for found in self.post("task_runs/filter", body)}

    def ended(self, flow_run: str, seconds: float = PATIENCE_SECONDS) -> str:
        """Wait for the end of a run; return the type of its last state."""
        return str(until(lambda: (state := self.state(flow_run)) in ENDED and state, seconds))

    def ask_the_doctor(self, silent_minutes: float = 0.1) -> str:
        """Do what ``check-setup --fix`` does about runs of which nothing is heard any more; return what it says."""
        from prefect.client.orchestration import get_client  # seconds, which most drills need not wait for
        from prefect.settings import PREFECT_API_URL, temporary_settings

        from tasks.checks import mark_zombies

        async def treat() -> str:
            async with get_client() as client:
                return await mark_zombies(client, silent_minutes, fix=True)

        with temporary_settings({PREFECT_API_URL: self.url}):
            return asyncio.run(treat())

    def flow_processes(self) -> list[int]:
        """Ids of the processes in which the worker runs flows."""
        return [pid for pid, parent in processes_of("prefect.engine") if parent == self.worker.pid]

    def processes_at(self, flow_run: str) -> list[int]:
        """Ids of the processes that work for a run: its flow's, and the child that a flow may have."""
        told = subprocess.run(["ps", "axeww", "-o", "pid=,command="], capture_output=True, text=True, check=True)
        mark = f"PREFECT__FLOW_RUN_ID={flow_run}"
        named = {int(line.split(None, 1)[0]) for line in told.stdout.splitlines() if mark in line}
        return [pid for pid in families_of(self.worker.pid) if pid in named]

    def everybody(self) -> list[int]:
        """Ids of all processes: the server's, the worker's, and those of the runs."""
        return families_of(self.server.pid, self.worker.pid)

    def stop(self) -> None:
        """End everything."""
        for name in ("worker-drill", "server"):
            processes.stop(name)
        for process in (self.worker, self.server):
            with contextlib.suppress(ChildProcessError):
                process.wait()


@contextlib.contextmanager
def running_station(home: Path, pool: str = "data", slots: int = 2, **environment: str) -> Iterator[Station]:
    """Run a station that keeps its things in a folder, for the duration of the block."""
    with pytest.MonkeyPatch.context() as patched:
        for name, value in {
            "PREFECT_HOME": str(give_database(home)),
            "DISTRUST_BLOCKS": "none-saved",
            **environment,
        }.items():
            patched.setenv(name, value)
        patched.setattr(server, "START_TIMEOUT_SECONDS", PATIENCE_SECONDS)  # drills run beside each other
        running = Station(pool, slots)
        try:
            yield running
        finally:
            running.stop()
