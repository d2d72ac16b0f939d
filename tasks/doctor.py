"""The doctor: what ails a Prefect server that has run for months, and how to mend it.

A worker that was killed leaves its run Running for ever; in a pool with few slots, every later run then waits for it.
"""

from __future__ import annotations

import sqlite3
import tomllib
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from prefect import task
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.context import FlowRunContext
from prefect.settings import PREFECT_API_URL, PREFECT_HOME
from prefect.states import Crashed

from storage.addresses import LOOPBACK
from tasks.policies import LOCAL_WORK, Check, try_component

ROOT = Path(__file__).resolve().parent.parent
LOCKED = ("prefect", "fastapi", "sqlalchemy")
"""Packages whose other versions break the server."""
AT_WORK = (StateType.RUNNING, StateType.CANCELLING)
HOLDS_A_SLOT = (StateType.PENDING, *AT_WORK)
TABLES = ("flow_run", "task_run", "log", "events", "event_resources", "artifact")
LARGE_DATABASE_BYTES = 2 << 30
PAGE = 200


@dataclass(frozen=True)
class Zombie:
    """A run that the server believes to be at work, and that nobody works on."""

    run: FlowRun
    reason: str


@task(task_run_name="check-server-health", **LOCAL_WORK)
async def examine(silent_minutes: float, *, fix: bool) -> list[Check]:
    """Look for zombie runs and blocked pools, at versions and at the database; mend what can be.

    Args:
        silent_minutes: How long a run may give no sign of life.
        fix: Mark zombies Crashed; otherwise only tell.
    """
    async with get_client() as client:

        async def versions() -> str:
            return compare_versions(await client.api_version())

        return [
            await try_component("zombie runs", partial(treat_zombies, client, silent_minutes, fix=fix)),
            await try_component("blocked pools", partial(find_blocked_pools, client)),
            await try_component("locked versions", versions),
            await try_component("database", partial(describe_database, client)),
        ]


def own_run() -> UUID | None:
    """The flow run that this code is a part of, which is at work itself."""
    context = FlowRunContext.get()
    return context.flow_run.id if context and context.flow_run else None


async def treat_zombies(client: PrefectClient, silent_minutes: float, *, fix: bool) -> str:
    """Mark the runs Crashed that nobody works on, or fail with their list."""
    zombies = await find_zombies(client, silent_minutes)
    if not zombies:
        return "every run that is at work shows signs of life"
    told = "; ".join(f"{zombie.run.name} ({zombie.reason})" for zombie in zombies)
    if not fix:
        raise RuntimeError(f"{len(zombies)} found: {told}; check-setup --fix marks them Crashed")
    for zombie in zombies:
        state: State[Any] = Crashed(message=f"No sign of life: marked by the doctor, {zombie.reason}.")
        await client.set_flow_run_state(zombie.run.id, state, force=True)
    return f"marked Crashed: {told}"


async def find_zombies(client: PrefectClient, silent_minutes: float) -> list[Zombie]:
    """Find runs that the server believes to be at work and whose heartbeat has been silent for too long.

    A worker keeps no record of the machine on which a run's process lives, so the heartbeat is the only sign of life.
    """
    own, found = own_run(), []
    for run in await read_runs(client, AT_WORK):
        if run.id == own or run.state is None:
            continue
        heard = max(run.state.timestamp, await last_heartbeat(client, run) or run.state.timestamp)
        silence = datetime.now(UTC) - heard
        if silence > timedelta(minutes=silent_minutes):
            found.append(Zombie(run, f"no sign of life for {silence.total_seconds() / 60:.0f} minutes"))
    return found


async def read_runs(client: PrefectClient, types: Sequence[StateType], pool: str = "") -> list[FlowRun]:
    """Read all flow runs in states of these types, of one work pool if it is named."""
    filters = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(types))))
    pools = WorkPoolFilter(name=WorkPoolFilterName(any_=[pool])) if pool else None
    runs: list[FlowRun] = []
    while True:
        page = await client.read_flow_runs(
            flow_run_filter=filters, work_pool_filter=pools, limit=PAGE, offset=len(runs)
        )
        runs += page
        if len(page) < PAGE:
            return runs


async def last_heartbeat(client: PrefectClient, run: FlowRun) -> datetime | None:
    """When a run's heartbeat was heard last."""
    query = {
        "filter": {
            "event": {"name": ["prefect.flow-run.heartbeat"]},
            "resource": {"id": [f"prefect.flow-run.{run.id}"]},
            "occurred": {"since": (datetime.now(UTC) - timedelta(days=7)).isoformat()},
            "order": "DESC",
        },
        "limit": 1,
    }
    answer = await client.request("POST", "/events/filter", json=query)
    events = answer.json()["events"]
    return datetime.fromisoformat(events[0]["occurred"]) if events else None


async def find_blocked_pools(client: PrefectClient) -> str:
    """Say how full the pools are, or fail where all slots are taken while runs are late."""
    told, blocked = [], []
    for pool in await client.read_work_pools():
        taken = await read_runs(client, HOLDS_A_SLOT, pool.name)
        limit = pool.concurrency_limit
        told.append(f"{pool.name} {len(taken)} of {'any number' if limit is None else limit}")
        waiting = await read_runs(client, [StateType.SCHEDULED], pool.name)
        late = [run for run in waiting if run.state is not None and run.state.name == "Late"]
        if limit is not None and len(taken) >= limit and late:
            names = ", ".join(run.name for run in taken)
            blocked.append(f"{pool.name}: {len(late)} late runs wait for {names}")
        if pool.is_paused:
            blocked.append(f"{pool.name} is paused; resume it in the UI")
    if blocked:
        raise RuntimeError(f"{'; '.join(blocked)}. A run that nobody works on is a zombie: check-setup --fix frees it")
    return f"slots taken: {', '.join(told)}" if told else "there are no pools"


def compare_versions(server: str, lock: Path = ROOT / "uv.lock") -> str:
    """Compare what is installed, and what the server runs, with the lock file.

    Raises:
        RuntimeError: They differ.
    """
    packages = {entry["name"]: entry["version"] for entry in tomllib.loads(lock.read_text("utf-8"))["package"]}
    differing = [
        f"{name} {version(name)} is installed, {packages[name]} is locked"
        for name in LOCKED
        if version(name) != packages[name]
    ]
    if server != version("prefect"):
        differing.append(f"the server runs Prefect {server}, this is {version('prefect')}")
    if differing:
        raise RuntimeError(f"{'; '.join(differing)}: run make env, then make down and make up")
    return ", ".join(f"{name} {packages[name]}" for name in LOCKED) + " as locked; the server runs the same"


async def describe_database(client: PrefectClient) -> str:
    """Say how much the server keeps: rows over the API, and the file where it is one of this machine."""
    runs = await client.count_flow_runs()
    answer = await client.request("POST", "/task_runs/count", json={})
    told = f"{runs:,} flow runs, {int(answer.json()):,} task runs"
    file = database_file()
    if file is None or not knows_run(file, own_run()):
        return f"{told}; its size is not visible from here"
    size = sum(part.stat().st_size for part in file.parent.glob(f"{file.name}*"))
    rows = ", ".join(f"{table} {count:,}" for table, count in count_rows(file).items())
    if size > LARGE_DATABASE_BYTES:
        raise RuntimeError(
            f"{file} has {size / 1e9:.1f} GB ({rows}); let the server forget old runs "
            "(PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED=events,flow_runs), then make down, "
            f"sqlite3 {file} VACUUM, make up"
        )
    return f"{told}; {size / 1e6:,.0f} MB in {file} ({rows})"


def reading(file: Path) -> closing[sqlite3.Connection]:
    """Open an SQLite file; nothing is written and no lock is taken for long."""
    return closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=10))


def database_file() -> Path | None:
    """The SQLite file of a server on this machine that keeps its state below ``PREFECT_HOME``."""
    address = PREFECT_API_URL.value()
    if address and urlsplit(address).hostname not in LOOPBACK:
        return None
    file = Path(PREFECT_HOME.value()) / "prefect.db"
    return file if file.is_file() else None


def knows_run(file: Path, run: UUID | None) -> bool:
    """Tell whether a file is the server's, and not what was left when it went over to PostgreSQL."""
    with reading(file) as database:
        return run is None or bool(database.execute("SELECT 1 FROM flow_run WHERE id = ?", [str(run)]).fetchone())


def count_rows(file: Path) -> dict[str, int]:
    """Count the rows of the tables that grow."""
    with reading(file) as database:
        present = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        return {
            table: int(database.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0])  # noqa: S608  (names of our own)
            for table in TABLES
            if table in present
        }
