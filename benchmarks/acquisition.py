"""Acquisition: speed at a latency, the kept pace with and without faults, memory and orchestration of 20,000 pages.

A newspaper archive in a process of its own answers over loopback HTTP. Ratios are taken within one run.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import requests

from benchmarks.measuring import peak_bytes, run_alone
from benchmarks.newspaper_archive import FIRST_DAY, PAGES_A_DAY, hit, serve
from deployments.server import client_environment, local_server
from storage.shard_plan import Item, ShardSpec
from tasks.sources.catalogue import SourceSpec
from tasks.sources.connection import Archives, Connection, Pace
from tasks.sources.opening import open_source
from tasks.sources.shards import SourceDownload
from tasks.sources.source import Source
from tasks.sources.web import Web

LATENCY_SECONDS = 0.1
CONCURRENCY = 10
PACE = 20.0
PACED_SECONDS = 60
FAULT_SHARE = 0.05
MANY = 20_000
GUIDE_REQUESTS_PER_SECOND = 10.0
SPEC = SourceSpec.model_validate(
    {
        "name": "newspapers",
        "archive": "chronicling_america",
        "date_from": FIRST_DAY,
        "date_to": FIRST_DAY + timedelta(days=MANY // PAGES_A_DAY + 60),
        "source_type": "historical_newspaper",
        "trivium": "rhetoric",
        "prior_authority": 0.15,
        "target": MANY,
    }
)


@contextlib.contextmanager
def archive(latency_seconds: float, fault_share: float = 0.0) -> Iterator[str]:
    """Run the archive in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.acquisition", "serve", str(latency_seconds), str(fault_share)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def items(count: int) -> list[Item]:
    from tasks.sources.newspaper_pages import plan_page

    days = (divmod(number, PAGES_A_DAY) for number in range(count))
    found = [plan_page(hit(FIRST_DAY + timedelta(days=day), number)) for day, number in days]
    return [item for item in found if item is not None]


@contextlib.asynccontextmanager
async def source(root: str, requests_per_second: float) -> AsyncIterator[Source]:
    connection = Connection(loc_url=root, loc_text_url=root)
    pace = Pace(concurrency=CONCURRENCY, requests_per_second=requests_per_second, first_delay_seconds=0.2)
    async with Web() as web_, open_source(SPEC, Archives(connection, pace, web_)) as opened:
        yield opened


async def fetch(root: str, requests_per_second: float, count: int) -> float:
    """Fetch pages as the pipeline does, into a shard on disk; return documents per second."""
    with tempfile.TemporaryDirectory() as folder:
        async with source(root, requests_per_second) as opened:
            shard = ShardSpec.of(0, items(count))
            start = time.monotonic()
            outcome = await SourceDownload(opened, SPEC, Path(folder), CONCURRENCY).fetch(shard, count)
            return outcome.documents / (time.monotonic() - start)


def fetch_with_threads(root: str, count: int) -> float:
    """Fetch the same pages as the predecessor did: a pool of threads, each with a session; texts kept in memory."""
    local = threading.local()

    def one(item: Item) -> str:
        if not hasattr(local, "session"):
            local.session = requests.Session()
        params = {"segment": item.data["segment"], "format": "alto_xml", "full_text": 1}
        answer = local.session.get(f"{root}/text-services/word-coordinates-service", params=params, timeout=30)
        return str(next(iter(answer.json().values()))["full_text"])

    planned = items(count)
    start = time.monotonic()
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        texts = list(pool.map(one, planned))
    assert len(texts) == count
    return count / (time.monotonic() - start)


def busiest_second(times: list[float]) -> int:
    window: deque[float] = deque()
    most = 0
    for moment in times:
        window.append(moment)
        while window[0] <= moment - 1.0:
            window.popleft()
        most = max(most, len(window))
    return most


async def many(root: str, rate: float, count: int, *, flow: bool) -> None:
    """Download pages, with or without Prefect, and print seconds and this process's peak memory."""
    with tempfile.TemporaryDirectory() as folder:
        if flow:
            from flows.download_corpus import download_corpus

            start = time.monotonic()
            catalogue = Path(folder) / "catalogue.toml"
            table = SPEC.model_dump(include={"archive", "source_type", "trivium", "prior_authority", "target"})
            lines = [f"{key} = {json.dumps(value)}" for key, value in table.items()]
            lines += [f"date_from = {SPEC.date_from}", f"date_to = {SPEC.date_to}"]
            catalogue.write_text("[newspapers]\n" + "\n".join(lines) + "\n", "utf-8")
            result = await download_corpus(
                store=folder, catalogue=str(catalogue), sources=["newspapers"], rate_limit=rate, max_samples=count
            )
            documents = result.sources[0].documents
        else:
            from storage.shard_plan import make_plan
            from tasks.sources.shards import items_per_shard

            documents, start = 0, time.monotonic()
            async with source(root, rate) as opened:
                download = SourceDownload(opened, SPEC, Path(folder), CONCURRENCY)
                plan = make_plan(SPEC.name, "", await opened.plan(count), items_per_shard(SPEC))
                for shard in plan.shards:
                    if documents < count:
                        done = await download.fetch(shard, count - documents)
                        documents += done.documents
        seconds = time.monotonic() - start
    assert documents == count
    print(json.dumps({"seconds": seconds, "peak_mb": peak_bytes() / 1e6}), flush=True)


def run_many(root: str, mode: str, server: Mapping[str, str], rate: float, count: int) -> dict[str, float]:
    places = {"DISTRUST_LOC_URL": root, "DISTRUST_LOC_TEXT_URL": root, "DISTRUST_BLOCKS": "none-saved"}
    environment = {**server, **places, "PREFECT_LOGGING_LEVEL": "ERROR"}
    return dict(run_alone("acquisition", mode, root, rate, count, environment=environment))


def report(name: str, **numbers: float | str) -> None:
    rounded = {key: round(value, 3) if isinstance(value, float) else value for key, value in numbers.items()}
    print(json.dumps({"benchmark": f"acquisition.{name}", **rounded}), flush=True)


def main() -> None:
    """Run every measurement."""
    with archive(LATENCY_SECONDS) as root:
        ideal = CONCURRENCY / LATENCY_SECONDS
        asyncio.run(fetch(root, 1000.0, 50))  # what is imported on first use is no part of the speed
        ours = asyncio.run(fetch(root, 1000.0, 1500))
        threads = fetch_with_threads(root, 1500)
        report(
            "latency",
            documents_per_second=ours,
            share_of_ideal=ours / ideal,
            threads_share_of_ideal=threads / ideal,
            target="share of ideal >= 0.95",
        )
        requests.get(f"{root}/times", timeout=30)
        rate = asyncio.run(fetch(root, PACE, int(PACE * PACED_SECONDS)))
        most = busiest_second(requests.get(f"{root}/times", timeout=30).json())
        report("pace", share_of_pace=rate / PACE, busiest_second=most, target=f"0.97..1, second <= {PACE + 2:.0f}")
    with tempfile.TemporaryDirectory() as home:
        os.environ["PREFECT_HOME"] = home
        with local_server() as port:
            measure_flows(client_environment(port))


def measure_flows(server: Mapping[str, str]) -> None:
    """Run the measurements that go through whole download runs."""
    count = int(PACE * PACED_SECONDS)
    with archive(LATENCY_SECONDS, FAULT_SHARE) as root:
        run_many(root, "flow", server, PACE, count)
        times = requests.get(f"{root}/times", timeout=30).json()
        useful = count / (times[-1] - times[0] + 1 / PACE)
        report(
            "pace_with_faults",
            share_of_pace=useful / PACE,
            busiest_second=busiest_second(times),
            target="useful >= 0.95",
        )
    with archive(0.0) as root:
        plain, flow = (run_many(root, mode, server, 1000.0, MANY) for mode in ("plain", "flow"))
        overhead = flow["seconds"] - plain["seconds"]
        report(
            "twenty_thousand",
            peak_mb=flow["peak_mb"],
            documents_per_second=MANY / flow["seconds"],
            overhead_seconds=overhead,
            overhead_share_at_the_guides_pace=overhead / (MANY / GUIDE_REQUESTS_PER_SECOND),
            target="peak < 400 MB, overhead < 0.02",
        )


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", latency, faults]:
            with contextlib.suppress(KeyboardInterrupt):
                asyncio.run(serve(float(latency), float(faults)))
        case ["plain" | "flow" as mode, root, rate, count]:
            asyncio.run(many(root, float(rate), int(count), flow=mode == "flow"))
        case _:
            main()
