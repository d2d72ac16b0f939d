"""What a busy server loses: processes that write as pipelines do, for two minutes, and an automation that counts.

Four processes send what Prefect's client sends for tasks and flows: states, logs, artifacts, heartbeats and events of
their own. One automation fires for every counted event, and one watches heartbeats, as that of `make up` does. The line
says how many rounds were done, how many counted events the server did not store, for how many the automation did not
fire, how many events the automations never saw (after four tries they go to a folder of dead letters), and how often
the log or an answer says that the database was locked: for Prefect's own server, and for the one of `make up`, with the
same settings under the same load.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from websockets.asyncio.client import ClientConnection, connect

from deployments import server
from deployments.access import Access

PROCESSES, AT_ONCE, SECONDS, LINES = 4, 2, 120.0, 5
COUNTED = "distrust.load.counted"
HEARTBEAT = "prefect.flow-run.heartbeat"
SETTLED_SECONDS = 20.0


class Pipeline:
    """One process that writes."""

    def __init__(self, url: str, client: httpx.AsyncClient, events: ClientConnection) -> None:
        self.url, self.client, self.events = url, client, events
        self.key, self.locked = f"load-{os.getpid()}", 0  # pipelines do not share their artifacts

    async def ask(self, method: str, path: str, body: Any) -> Any:
        """Ask the API, again where its database was locked: so does Prefect's own client."""
        while True:
            answer = await self.client.request(method, f"{self.url}/{path}", json=body, timeout=300)
            if answer.status_code != 503:
                return answer.raise_for_status().json() if answer.content else None
            self.locked += 1
            await asyncio.sleep(0.5)

    async def emit(self, event: str, resource: str, payload: dict[str, Any], **related: str) -> None:
        """Send an event."""
        message = {
            "id": str(uuid4()),
            "occurred": now(),
            "event": event,
            "resource": {"prefect.resource.id": resource, "prefect.orchestration": "client"},
            "related": [
                {"prefect.resource.id": f"prefect.{role}.{name}", "prefect.resource.role": role.replace("_", "-")}
                for role, name in related.items()
            ],
            "payload": payload,
        }
        await self.events.send(json.dumps(message))

    async def step(self, flow_run: str, number: int) -> None:
        """Do what one small task does: three states, some log lines, an artifact that moves, and a counted event."""
        task_run = str(uuid4())
        artifact = await self.ask("POST", "artifacts/", {"key": self.key, "type": "progress", "data": 0.0})
        for name in ("Pending", "Running", "Completed"):
            state = {"id": str(uuid4()), "type": name.upper(), "name": name, "timestamp": now(), "message": ""}
            task = {"task_key": "step", "dynamic_key": f"step-{number}", "name": f"step-{number}"}
            payload = {"intended": {"from": None, "to": name.upper()}, "validated_state": state, "task_run": task}
            resource = f"prefect.task-run.{task_run}"
            await self.emit(f"prefect.task-run.{name}", resource, payload, **{"flow-run": flow_run})
            line = {"name": "load", "level": 20, "message": name, "timestamp": now(), "flow_run_id": flow_run}
            await self.ask("POST", "logs/", [line | {"task_run_id": task_run}] * LINES)
            await self.ask("PATCH", f"artifacts/{artifact['id']}", {"data": 50.0})
        await self.emit(COUNTED, f"distrust.load.{task_run}", {})

    async def round(self, number: int) -> None:
        """Do what one small flow does."""
        flow = await self.ask("POST", "flows/", {"name": "load"})
        body = {"flow_id": flow["id"], "state": {"type": "PENDING"}}
        run = str((await self.ask("POST", "flow_runs/", body))["id"])
        for kind in ("RUNNING", "COMPLETED"):
            await self.ask("POST", f"flow_runs/{run}/set_state", {"state": {"type": kind}})
            await self.emit(HEARTBEAT, f"prefect.flow-run.{run}", {})
            if kind == "RUNNING":
                await self.step(run, number)


def now() -> str:
    """Return this moment as the API writes it."""
    return datetime.now(UTC).isoformat()


async def pipeline(url: str, seconds: float) -> list[int]:
    """Go round after round, some at once; return how many, and how many answers said that the database was locked."""
    address = url.replace("http", "ws", 1) + "/events/in"
    numbers, ends = iter(range(10**9)), time.monotonic() + seconds
    async with httpx.AsyncClient() as client, connect(address, ping_interval=None) as events:
        worker = Pipeline(url, client, events)

        async def work() -> int:
            rounds = 0
            while time.monotonic() < ends:
                await worker.round(next(numbers))
                rounds += 1
            return rounds

        return [sum(await asyncio.gather(*(work() for _ in range(AT_ONCE)))), worker.locked]


@contextlib.contextmanager
def running(command: list[str], home: Path, access: Access) -> Iterator[str]:
    """Run a server with the settings of `make up`; yield the address of its API."""
    home.mkdir(parents=True)
    environment = {**os.environ, **server.SERVER_SETTINGS, "PREFECT_HOME": str(home), **access.client_environment()}
    environment["PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED"] = "false"
    with (home / "server.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{access.api_url}/health").status_code == 200:
                    break
            time.sleep(0.2)
        yield access.api_url
    finally:
        process.terminate()
        process.wait()


def counts(home: Path) -> dict[str, int]:
    """Count what the server has stored."""
    names = {"stored": COUNTED, "fired": "prefect.automation.triggered"}
    with contextlib.closing(sqlite3.connect(f"file:{home / 'prefect.db'}?mode=ro", uri=True)) as database:
        ask = "select count(*) from events where event = ?"
        found = {key: int(database.execute(ask, (name,)).fetchone()[0]) for key, name in names.items()}
        ended = "select count(*) from task_run where state_type = 'COMPLETED'"
        return found | {"task_runs": int(database.execute(ended).fetchone()[0])}


def settled(home: Path) -> dict[str, int]:
    """Return the counts once they no longer grow."""
    last, since = counts(home), time.monotonic()
    while time.monotonic() - since < SETTLED_SECONDS:
        time.sleep(1)
        if (now := counts(home)) != last:
            last, since = now, time.monotonic()
    return last


def automations() -> list[dict[str, Any]]:
    """The one that counts, and one that watches runs as `crash-silent-runs` does."""
    each = {"type": "event", "for_each": ["prefect.resource.id"], "threshold": 1}
    counts_events = each | {"posture": "Reactive", "expect": [COUNTED], "within": 0}
    watches = each | {"posture": "Proactive", "after": [HEARTBEAT], "within": 3600}
    watches["expect"] = [HEARTBEAT, "prefect.flow-run.Completed"]
    triggers = {"count": counts_events, "watch": watches}
    return [
        {"name": name, "trigger": trigger, "actions": [{"type": "do-nothing"}]} for name, trigger in triggers.items()
    ]


def measure(name: str, command: list[str], access: Access, folder: Path, seconds: float) -> dict[str, Any]:
    """Put the load on one server."""
    home = folder / name
    with running(command, home, access) as url:
        for automation in automations():
            httpx.post(f"{url}/automations/", json=automation).raise_for_status()
        time.sleep(2)  # until the server's triggers have heard of them
        line = [sys.executable, "-m", "benchmarks.operations_writers", url, str(seconds)]
        started = time.monotonic()
        clients = [subprocess.Popen(line, stdout=subprocess.PIPE) for _ in range(PROCESSES)]
        results = [json.loads(client.communicate()[0]) for client in clients]
        took = time.monotonic() - started
        found = settled(home)
    sent = sum(rounds for rounds, _ in results)
    log = (home / "server.log").read_text("utf-8")
    return {
        f"{name}_seconds": round(took, 1),
        f"{name}_events": sent,
        f"{name}_not_stored": sent - found["stored"],
        f"{name}_not_fired": sent - found["fired"],
        f"{name}_task_runs_not_recorded": sent - found["task_runs"],
        f"{name}_events_dropped": len(list((home / "dlq").glob("*"))),
        f"{name}_database_locked": log.count("database is locked"),
        f"{name}_answers_locked": sum(locked for _, locked in results),
    }


def writers(folder: Path, seconds: float = SECONDS) -> dict[str, Any]:
    """Measure both servers, one after the other."""
    stock, own = Access(port=server.free_port(0)), Access(port=server.free_port(0))
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", stock.host, "--port", str(stock.port)]
    return {
        "benchmark": "operations: writers",
        "processes": PROCESSES,
        **measure("prefect", command, stock, folder, seconds),
        **measure("ours", server.server_command(own), own, folder, seconds),
    }


if __name__ == "__main__" and len(sys.argv) > 1:
    print(json.dumps(asyncio.run(pipeline(sys.argv[1], float(sys.argv[2])))))
