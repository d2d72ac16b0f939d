"""What Prefect costs and whether it holds: 200 shards, eight at a time, on a SQLite server; 50 rounds; writers.

The first line scores 200 shards with a signal that takes 3 to 9 seconds for each, eight at once, on a server of its
own with the settings of `make up`, beside the same 200 shards without Prefect: the overhead is the ratio of the two
less one, and every task run must be in the database. The eight are task runs of one flow run in one process: the server
is asked as eight workers would ask it, but nothing is told of their start or of work pools. The times differ, as those
of real shards do: eight that end in the same instant would queue for one processor each time. The second line goes 50
times through download, scoring and mixture on the sandbox's archives, each time into a new store, in one process: how
the resident memory grows after the tenth.

The third line, of `benchmarks.operations_writers`, has processes write as fast as they can, to Prefect's own server and
to that of `make up`, and counts what each of them loses.

Each line carries its bounds and whether they hold. A bound that does not is no failure: a busy machine breaks it too.
"""

from __future__ import annotations

import asyncio
import json
import operator
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa

from benchmarks.measuring import own_server, run_alone
from benchmarks.operations_writers import writers
from deployments import processes, server
from sandbox.__main__ import BUNDLED_DOCUMENTS
from sandbox.archives import DocumentFolder, SandboxArchives, write_catalogue

SHARDS, AT_ONCE, SECONDS_PER_SHARD = 200, 8, 6.0
ROUNDS, WARM_UP, DOCUMENTS = 50, 10, 40
SOURCES = ["internet_archive_books", "historical_newspapers", "arxiv_preprints", "wikipedia"]
"""At least one of every archive and of every band."""

Bounds = Mapping[str, tuple[str, float]]
LOAD_BOUNDS: Bounds = {"overhead": ("<", 0.02), "task_runs_recorded": ("==", SHARDS), "database_locked": ("==", 0)}
SOAK_BOUNDS: Bounds = {"growth_per_round_megabytes": ("<", 1.0)}
"""Chosen, not derived: a thousand rounds in one process then stay within a gigabyte."""
LOST = ("not_stored", "not_fired", "task_runs_not_recorded", "events_dropped", "database_locked")
WRITERS_BOUNDS: Bounds = {f"ours_{name}": ("==", 0) for name in LOST}


def judged(line: dict[str, Any], bounds: Bounds) -> dict[str, Any]:
    """Add to a line what its numbers are held against, and whether all of them keep to it."""
    compare = {"<": operator.lt, "==": operator.eq}
    return {
        **line,
        "bounds": {name: f"{sign} {bound:g}" for name, (sign, bound) in bounds.items()},
        "bounds_hold": all(compare[sign](line[name], bound) for name, (sign, bound) in bounds.items()),
    }


def score(documents: pa.Table) -> dict[str, list[float | None]]:
    """Leave the built-in scores as they are, after `SECONDS_PER_SHARD` on average."""
    number = int(str(documents.column("id")[0]).partition(":")[2])
    time.sleep(SECONDS_PER_SHARD * (0.5 + number % AT_ONCE / (AT_ONCE - 1)))
    return {"auth_weight": [None] * documents.num_rows}


def write_store(root: Path) -> None:
    """Write a source of many small shards."""
    from tests.tasks.mixture.corpora import Doc, write_source

    write_source(root, "many", [Doc(f"many:{n}", f"Text number {n}. " * 20, 0.5, "logic") for n in range(SHARDS)], 1)


async def score_shards(root: Path, *, with_prefect: bool) -> float:
    """Score all shards, eight at a time; return the seconds."""
    from prefect import flow

    from storage.layout import Layout
    from tasks import scoring

    plan, shards = scoring.plan_scoring(
        Layout.of(str(root)), "many", 2026, scoring.open_signal("benchmarks.operations:score", "replace"), "v2"
    )
    # The signal waits in a thread; asyncio's own pool has six of them on two cores.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2 * AT_ONCE))
    gate = asyncio.Semaphore(AT_ONCE)
    work = scoring.score_shards if with_prefect else scoring.score_shards.fn

    async def score(shard: Any) -> None:
        async with gate:
            await work(plan, [shard])

    async def all_shards() -> None:
        await asyncio.gather(*map(score, shards))

    started = time.perf_counter()
    await (flow(name="load")(all_shards)() if with_prefect else all_shards())
    return time.perf_counter() - started


def recorded(port: int) -> int:
    """Count the task runs that the server knows as completed; none while its database is locked."""
    body = {"task_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
    answer = httpx.post(f"{server.api_url(port)}/task_runs/count", json=body, timeout=30)
    return 0 if answer.status_code == 503 else int(answer.raise_for_status().json())


def load(folder: Path) -> dict[str, Any]:
    """Measure the load line."""
    os.environ["PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED"] = "false"  # the count is asked for without a token
    with own_server(folder / "prefect") as port:
        seconds = {}
        for name in ("bare", "prefect"):
            write_store(folder / name)
            environment = server.client_environment(port)
            seconds[name] = float(run_alone("operations", name, folder / name, environment=environment))
        deadline = time.monotonic() + 60
        while (found := recorded(port)) < SHARDS and time.monotonic() < deadline:
            time.sleep(1)
        log = (processes.home() / "server.log").read_text("utf-8")
    line = {
        "benchmark": "operations: load",
        "shards": SHARDS,
        "at_once": AT_ONCE,
        "ideal_seconds": SHARDS / AT_ONCE * SECONDS_PER_SHARD,
        "bare_seconds": round(seconds["bare"], 2),
        "prefect_seconds": round(seconds["prefect"], 2),
        "overhead": round(seconds["prefect"] / seconds["bare"] - 1, 4),
        "task_runs_recorded": found,
        "database_locked": log.count("database is locked"),
    }
    return judged(line, LOAD_BOUNDS)


async def go_round(catalogue: str, root: Path, number: int) -> float:
    """Go through the data stages once; return the resident memory afterwards in MB."""
    from flows.download_corpus import download_corpus
    from flows.rebalance_corpus import rebalance_corpus
    from flows.score_corpus import score_corpus

    store = str(root / f"round-{number}")
    await download_corpus(store=store, catalogue=catalogue, sources=SOURCES, max_samples=DOCUMENTS, rate_limit=1000.0)
    await score_corpus(store=store)
    await rebalance_corpus(store=store, near_duplicates=False, accept_imbalance=True)
    listing = subprocess.run(["ps", "-o", "rss=", "-p", str(os.getpid())], check=True, capture_output=True, text=True)
    return int(listing.stdout) * 1024 / 1e6


def soak(folder: Path) -> dict[str, Any]:
    """Measure the soak line."""
    with own_server(folder / "prefect") as port:
        megabytes = json.loads(asyncio.run(soak_beside_archives(folder, port)).splitlines()[-1])
    settled = megabytes[WARM_UP:]
    line = {
        "benchmark": "operations: soak",
        "rounds": len(megabytes),
        "megabytes_after_warm_up": round(settled[0]),
        "megabytes_at_the_end": round(settled[-1]),
        "growth_per_round_megabytes": round((settled[-1] - settled[0]) / (len(settled) - 1), 3),
    }
    return judged(line, SOAK_BOUNDS)


async def soak_beside_archives(folder: Path, port: int) -> str:
    """Go all rounds in a process of its own, against the sandbox's archives; return what it printed."""
    async with SandboxArchives(DocumentFolder(BUNDLED_DOCUMENTS)) as archives:
        write_catalogue(folder / "catalogue.toml", archives.summaries)
        environment = server.client_environment(port) | archives.environment
        environment |= {"DISTRUST_BLOCKS": "none-saved", "HF_HOME": str(folder / "hf-home")}
        command = [sys.executable, "-m", "benchmarks.operations", "soak", str(folder / "catalogue.toml")]
        process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=subprocess.PIPE)
        printed, _ = await process.communicate()
        if process.returncode:
            raise RuntimeError(f"the rounds ended with status {process.returncode}")
    return printed.decode()


def busy(folder: Path) -> dict[str, Any]:
    """Measure the line of the writers."""
    return judged(writers(folder), WRITERS_BOUNDS)


def main() -> None:
    """Measure and print."""
    for measure in (load, soak, busy):
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(Path(folder))), flush=True)


async def rounds(catalogue: str) -> list[float]:
    """Go through the data stages again and again."""
    with tempfile.TemporaryDirectory() as folder:
        return [await go_round(catalogue, Path(folder), number) for number in range(ROUNDS)]


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    elif sys.argv[1] == "soak":
        print(json.dumps(asyncio.run(rounds(sys.argv[2]))))
    else:
        print(asyncio.run(score_shards(Path(sys.argv[2]), with_prefect=sys.argv[1] == "prefect")))
