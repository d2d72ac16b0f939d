"""A Prefect server with one worker, for the drills: started, killed and started again at will."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from deployments import server

ROOT = Path(__file__).resolve().parent.parent
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


def until(found: Callable[[], Any], seconds: float = 90.0) -> Any:
    """Wait for a value that is true, and return it."""
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s"
        time.sleep(0.1)
    return value


def processes_of(text: str) -> list[tuple[int, int]]:
    """Process and parent ids of all processes whose command line holds a text."""
    listing = subprocess.run(["ps", "-ww", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True)
    rows = [line.split(None, 2) for line in listing.stdout.splitlines() if text in line]
    return [(int(pid), int(parent)) for pid, parent, _ in rows]


class Station:
    """A server and a worker that takes up to two runs of the deployments it is asked for."""

    def __init__(self, pool: str = "mac-train", slots: int = 1) -> None:
        self.pool = pool
        self.port = server.free_port(0)
        self.server = server.start_server(self.port)
        self.post("work_pools/", {"name": pool, "type": "process", "concurrency_limit": slots})
        self._deployments: dict[str, str] = {}
        self.start_worker()

    def start_worker(self) -> None:
        """Start the worker, again after it was killed."""
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", self.pool, "--type", "process"]
        environment = server.client_environment(self.port) | {"PREFECT_WORKER_QUERY_SECONDS": "2"}
        self.worker = server.spawn("worker-drill", command, environment)

    def stop_worker(self) -> None:
        """Send the worker what systemd and launchd send, and wait for its end."""
        os.kill(self.worker.pid, signal.SIGTERM)
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

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """Ask the API for something, again where its database was locked: so do the UI and Prefect's own client."""

        def answer() -> httpx.Response | None:
            answered = httpx.post(f"{server.api_url(self.port)}/{path}", json=body, timeout=30)
            return None if answered.status_code == 503 else answered

        return until(answer).raise_for_status().json()

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

    def state(self, flow_run: str) -> str:
        """The type of a run's state."""
        answer = httpx.get(f"{server.api_url(self.port)}/flow_runs/{flow_run}", timeout=30)
        return str(answer.json()["state"]["type"])

    def task_states(self, flow_run: str) -> dict[str, str]:
        """The state of every task run of a run, by name."""
        body = {"flow_runs": {"id": {"any_": [flow_run]}}, "limit": 200}
        return {found["name"]: found["state_type"] for found in self.post("task_runs/filter", body)}

    def parts(self, flow_run: str) -> dict[str, str]:
        """The state of every flow run that a run has started as a part of itself, by name."""
        body = {"flow_runs": {"parent_flow_run_id": {"any_": [flow_run]}}}
        return {found["name"]: found["state_type"] for found in self.post("flow_runs/filter", body)}

    def ended(self, flow_run: str) -> str:
        """Wait for the end of a run; return the type of its last state."""
        return str(until(lambda: (state := self.state(flow_run)) in ENDED and state))

    def flow_processes(self) -> list[int]:
        """Ids of the processes in which the worker runs flows."""
        return [pid for pid, parent in processes_of("prefect.engine") if parent == self.worker.pid]

    def stop(self) -> None:
        """End everything."""
        for name in ("worker-drill", "server"):
            server.stop(name)
        for process in (self.worker, self.server):
            with contextlib.suppress(ChildProcessError):
                process.wait()
