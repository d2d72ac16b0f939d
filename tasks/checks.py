"""What a run depends on: room on the disk, the Prefect server, its workers, its runs, versions and database.

One check mends as well: a worker that was killed leaves its run Running for ever, and in a pool with few slots every
later run waits for it.
"""

from __future__ import annotations

import shutil
import sqlite3
import tomllib
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

from prefect import task
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, WorkPoolFilter
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.settings import PREFECT_API_URL, PREFECT_HOME
from prefect.states import Crashed
from pydantic import BaseModel, ConfigDict

from storage.addresses import LOOPBACK
from storage.layout import Layout
from tasks.policies import LOCAL_WORK, ROOT, Check, current_run, try_component

LEAST_FREE_GB = 10
"""The guide's smallest tier; the others need 25 and 50."""
LOCKED = ("prefect", "fastapi", "sqlalchemy")
"""Packages whose other versions break the server."""
HOLDS_A_SLOT = (StateType.PENDING, StateType.RUNNING, StateType.CANCELLING)
TABLES = ("flow_run", "task_run", "log", "events", "event_resources", "artifact")
LARGE_DATABASE_BYTES = 2 << 30
PAGE = 200


class SetupReport(BaseModel):
    """What was found when every component was tried out."""

    model_config = ConfigDict(frozen=True)

    checks: tuple[Check, ...]

    @property
    def failed(self) -> list[str]:
        """Names of the components that do not work."""
        return [check.component for check in self.checks if not check.ok]

    def summary(self) -> list[str]:
        """One line per component."""
        return [f"  {check.component:<22} {'ok' if check.ok else 'FAILED':<7} {check.detail}" for check in self.checks]


@task(task_run_name="check-environment", **LOCAL_WORK)
async def check_environment(layout: Layout, silent_minutes: float, *, fix: bool) -> list[Check]:
    """Look at everything that a run depends on; `fix` marks the runs Crashed that were silent for so many minutes."""
    async with get_client() as client:

        async def versions() -> str:
            return compare_versions(await client.api_version())

        checks: dict[str, Callable[[], Awaitable[str]]] = {
            "disk": partial(measure_disk, layout),
            "Prefect server": partial(reach_server, client),
            "workers": partial(count_workers, client),
            "zombie runs": partial(mark_zombies, client, silent_minutes, fix=fix),
            "blocked pools": partial(find_blocked_pools, client),
            "locked versions": versions,
            "database": partial(describe_database, client),
        }
        return [await try_component(component, check) for component, check in checks.items()]


async def measure_disk(layout: Layout) -> str:
    """Say how much room is left for the store, or fail if it is too little."""
    folder = next(path for path in (layout.root, *layout.root.parents) if path.exists())
    free_gb = shutil.disk_usage(folder).free / 1e9
    if free_gb < LEAST_FREE_GB:
        raise OSError(
            f"{free_gb:.1f} GB are free below {layout.root}, but at least {LEAST_FREE_GB} are needed; free some or "
            "name another store (DISTRUST_STORE)"
        )
    needs = "8B models need 10, 32B 25, 70B 50; weights that the Hub holds in 16 bits 16, 65 and 141 more"
    return f"{free_gb:.0f} GB free below {layout.root} ({needs})"


async def reach_server(client: PrefectClient) -> str:
    """Name the server, or fail if it does not answer."""
    if (problem := await client.api_healthcheck()) is not None:
        raise ConnectionError(f"the server at {client.api_url} does not answer ({problem}); start it: make up")
    return f"{client.api_url} answers" + ("" if PREFECT_API_URL.value() else "; it is a temporary one: make up")


async def count_workers(client: PrefectClient) -> str:
    """Count the workers that are online, or fail if no pool has one."""
    online = {pool.name: len(await online_workers(client, pool.name)) for pool in await client.read_work_pools()}
    if not online:
        return "no work pools: commands run here; make up starts pools and workers for scheduled runs"
    counts = ", ".join(f"{pool} {count}" for pool, count in online.items())
    if not any(online.values()):
        raise ConnectionError(f"no worker is online ({counts}); start them: make up")
    return f"online by pool: {counts}"


async def online_workers(client: PrefectClient, pool: str) -> list[str]:
    """Name the workers of a pool that are online."""
    workers = await client.read_workers_for_work_pool(pool)
    return [worker.name for worker in workers if str(getattr(worker.status, "value", worker.status)) == "ONLINE"]


async def mark_zombies(client: PrefectClient, silent_minutes: float, *, fix: bool) -> str:
    """Mark the zombies Crashed, or fail with their list."""
    zombies = await find_zombies(client, silent_minutes)
    if not zombies:
        return "every run that is at work shows signs of life"
    names = "; ".join(f"{run.name} ({reason})" for run, reason in zombies)
    if not fix:
        raise RuntimeError(f"{len(zombies)} found: {names}; check-setup --fix marks them Crashed")
    for run, reason in zombies:
        message = f"No sign of life: marked by the doctor, {reason}."
        await client.set_flow_run_state(run.id, Crashed(message=message), force=True)
    return f"marked Crashed: {names}"


async def find_zombies(client: PrefectClient, silent_minutes: float) -> list[tuple[FlowRun, str]]:
    """Find runs that the server believes to be at work and that were silent for too long; say for how long.

    A worker records a process id without its machine, so an unknown id proves nothing: the run may work on another Mac.
    The heartbeat (one a minute) is the only sign of life. Processes of this machine are known by `flows.liveness`.
    """
    own, found = current_run(), []
    for run in await read_runs(client, HOLDS_A_SLOT):
        if (own and run.id == own.id) or run.state is None:
            continue
        last_sign = max(run.state.timestamp, await last_heartbeat(client, run) or run.state.timestamp)
        silence = datetime.now(UTC) - last_sign
        if silence > timedelta(minutes=silent_minutes):
            found.append((run, f"no sign of life for {silence.total_seconds() / 60:.0f} minutes"))
    return found


async def read_runs(client: PrefectClient, types: Sequence[StateType], pool: str = "") -> list[FlowRun]:
    """Read all flow runs in states of these types, of one work pool if it is named."""
    filters = FlowRunFilter.model_validate({"state": {"type": {"any_": list(types)}}})
    pools = WorkPoolFilter.model_validate({"name": {"any_": [pool]}}) if pool else None
    runs: list[FlowRun] = []
    while True:
        page = await client.read_flow_runs(
            flow_run_filter=filters, work_pool_filter=pools, limit=PAGE, offset=len(runs)
        )
        runs += page
        if len(page) < PAGE:
            return runs


async def last_heartbeat(client: PrefectClient, run: FlowRun) -> datetime | None:
    """When a run sent its last heartbeat."""
    query = {
        "filter": {
            "event": {"name": ["prefect.flow-run.heartbeat"]},
            "resource": {"id": [f"prefect.flow-run.{run.id}"]},
            "occurred": {"since": (datetime.now(UTC) - timedelta(days=7)).isoformat()},
            "order": "DESC",
        },
        "limit": 1,
    }
    events = (await client.request("POST", "/events/filter", json=query)).json()["events"]
    return datetime.fromisoformat(events[0]["occurred"]) if events else None


async def find_blocked_pools(client: PrefectClient) -> str:
    """Say how full the pools are, or fail if late runs wait for a pool that is full or paused."""
    slots, blocked = [], []
    for pool in await client.read_work_pools():
        taken = await read_runs(client, HOLDS_A_SLOT, pool.name)
        limit = pool.concurrency_limit
        slots.append(f"{pool.name} {len(taken)} of {'any number' if limit is None else limit}")
        waiting = await read_runs(client, [StateType.SCHEDULED], pool.name)
        late = [run for run in waiting if run.state is not None and run.state.name == "Late"]
        if limit is not None and len(taken) >= limit and late:
            names = ", ".join(run.name for run in taken)
            blocked.append(f"{pool.name}: {len(late)} late runs wait for {names}")
        if pool.is_paused:
            blocked.append(f"{pool.name} is paused; resume it in the UI")
    if blocked:
        raise RuntimeError(f"{'; '.join(blocked)}. If such a run is a zombie, check-setup --fix frees its slot")
    return f"slots taken: {', '.join(slots)}" if slots else "no pools exist"


def compare_versions(server: str, lock: Path = ROOT / "uv.lock") -> str:
    """Compare what is installed, and what the server runs, with the lock file; RuntimeError if they differ."""
    locked = {entry["name"]: entry["version"] for entry in tomllib.loads(lock.read_text("utf-8"))["package"]}
    installed = {name: version(name) for name in LOCKED}
    differing = [
        f"{name} {installed[name]} is installed, {locked[name]} is locked"
        for name in LOCKED
        if installed[name] != locked[name]
    ]
    if server != installed["prefect"]:
        differing.append(f"the server runs Prefect {server}, this environment has {installed['prefect']}")
    if differing:
        raise RuntimeError(f"{'; '.join(differing)}: run make env, then make down and make up")
    return ", ".join(f"{name} {locked[name]}" for name in LOCKED) + " as locked; the server runs the same"


async def describe_database(client: PrefectClient) -> str:
    """Say how much the server keeps: rows over the API, and the file if it is on this machine."""
    runs = await client.count_flow_runs()
    answer = await client.request("POST", "/task_runs/count", json={})
    total = f"{runs:,} flow runs, {int(answer.json()):,} task runs"
    file = database_file()
    counts = count_rows(file, run.id if (run := current_run()) else None) if file is not None else None
    if file is None or counts is None:
        return f"{total}; its size is not visible from here"
    size = sum(part.stat().st_size for part in file.parent.glob(f"{file.name}*"))
    rows = ", ".join(f"{table} {count:,}" for table, count in counts.items())
    if size > LARGE_DATABASE_BYTES:
        raise RuntimeError(
            f"{file} has {size / 1e9:.1f} GB ({rows}); let the server delete old runs "
            "(PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED=events,flow_runs), then make down, "
            f"sqlite3 {file} VACUUM, make up"
        )
    return f"{total}; {size / 1e6:,.0f} MB in {file} ({rows})"


def database_file() -> Path | None:
    """The SQLite file of a server on this machine that keeps its state below ``PREFECT_HOME``."""
    address = PREFECT_API_URL.value()
    file = Path(PREFECT_HOME.value()) / "prefect.db"
    is_here = not address or urlsplit(address).hostname in LOOPBACK
    return file if is_here and file.is_file() else None


def count_rows(file: Path, run: UUID | None) -> dict[str, int] | None:
    """Count the rows of the tables that grow.

    None if the file does not know the run: it is not the server's, which went over to PostgreSQL.
    """
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=10)) as database:
        if run and not database.execute("SELECT 1 FROM flow_run WHERE id = ?", [str(run)]).fetchone():
            return None
        present = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        return {
            table: int(database.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0])  # noqa: S608  (names of our own)
            for table in TABLES
            if table in present
        }
