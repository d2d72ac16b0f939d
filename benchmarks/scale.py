"""What a document, a shard and a run of every stage cost at 1, 10 and 100 times the sandbox; one JSON line each.

The bundled documents are copied under ids of their own, with their words in another order so that no copy is a
duplicate, and served by the sandbox's archives over HTTP. Every stage then runs as users run it: the real flow in a
process of its own against a real Prefect server. A first run on a few documents loads what is loaded once; what is
counted after it is processor time of the process and its children, peak memory, files, requests to the archives, and
rows and bytes of the server's database.

Growth is judged on the marginal cost: seconds per further document from 10 to 100 times beside those from 1 to 10
times. Two more lines show the cost of longer documents (10 times, each eight times as long) and what a plan and a
manifest of 100,000 shards cost. The last lines project all of it to 10^7 and 10^9 documents.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import resource
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import zstandard

from benchmarks.measuring import children_peak_bytes, own_server, peak_bytes, read_rows
from benchmarks.scale_projection import project
from deployments import processes, server
from sandbox.archives import DocumentFolder, SandboxArchives, write_catalogue
from storage.manifest import Manifest, ShardRecord, find_damage, read_manifest, write_manifest
from storage.shard_plan import Item, make_plan, read_plan, write_plan

TIMES = (1, 10, 100)
LONGER = 8
BUNDLED = Path(__file__).resolve().parent.parent / "sandbox" / "documents"
BASE_MODEL = BUNDLED.parent / "base_model"
STAGES = ("download", "score", "rebalance", "train")
WARM_UP_DOCUMENTS = 20
SHARDS, ITEMS_PER_SHARD = 100_000, 10


def write_documents(folder: Path, times: int, longer: int = 1) -> None:
    """Write the bundled documents `times` times, each `longer` times as long."""
    folder.mkdir(parents=True)
    for file in sorted(BUNDLED.glob("*.jsonl.zst")):
        rows = read_rows(file)
        with (folder / file.name).open("wb") as packed, zstandard.ZstdCompressor().stream_writer(packed) as stream:
            for copy in range(times):
                for row in rows:
                    stream.write(json.dumps(copied(row, copy, longer)).encode() + b"\n")


def copied(row: dict[str, Any], copy: int, longer: int) -> dict[str, Any]:
    """Make one copy of a document; the first one, at its own length, is the document itself."""
    if copy == 0 and longer == 1:
        return row
    words = row["text"].split()
    rng = random.Random(f"{row['native_id']}-{copy}")
    paragraphs = [" ".join(rng.sample(words, len(words))) for _ in range(longer)]
    return {**row, "native_id": f"{row['native_id']}-{copy}", "text": "\n\n".join(paragraphs)}


def mean_text_kb(folder: Path) -> float:
    """Mean length of the documents' texts, in thousands of characters."""
    lengths = [len(document.text) for document in DocumentFolder(folder)]
    return round(sum(lengths) / len(lengths) / 1e3, 3)


async def measure_scale(times: int, longer: int, folder: Path, port: int) -> AsyncIterator[dict[str, Any]]:
    """Run every stage over a corpus of this size, one after the other."""
    write_documents(folder / "documents", times, longer)
    async with SandboxArchives(DocumentFolder(folder / "documents")) as archives:
        write_catalogue(folder / "catalogue.toml", archives.summaries)
        documents = sum(summary.documents for summary in archives.summaries.values())
        text_kb = mean_text_kb(folder / "documents")
        for stage in STAGES:
            measured = await measure_stage(stage, folder, archives, port)
            yield {
                "benchmark": f"scale.{stage}",
                "times": times,
                "longer": longer,
                "documents": documents,
                "text_kb": text_kb,
                **measured,
            }


async def measure_stage(stage: str, folder: Path, archives: SandboxArchives, port: int) -> dict[str, Any]:
    """Run one stage in a process of its own and count what it used after its warm-up."""
    environment = server.client_environment(port) | archives.environment
    environment |= {
        "DISTRUST_BLOCKS": "none-saved",
        "HF_HOME": str(folder / "hf-home"),
        "PREFECT_LOGGING_LEVEL": "ERROR",
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.scale", stage, str(folder)),
        env=environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin
    await next_line(process, stage)
    rows, database_bytes = await settled_database()
    requests = archives.requests.total()
    process.stdin.write(b"go\n")
    await process.stdin.drain()
    used: dict[str, Any] = json.loads(await next_line(process, stage))
    if await process.wait():
        raise RuntimeError(f"{stage} failed; its lines above say why")
    rows_after, database_bytes_after = await settled_database()
    written = {"download": "raw", "score": "scored", "rebalance": "balanced", "train": "runs"}[stage]
    files = [file for file in (folder / "store" / written).rglob("*") if file.is_file()]
    return {
        **used,
        "requests": archives.requests.total() - requests,
        "task_runs": rows_after["task_run"] - rows["task_run"],
        "database_rows": sum(rows_after.values()) - sum(rows.values()),
        "database_mb": round((database_bytes_after - database_bytes) / 1e6, 2),
        "shards": len([file for file in files if file.suffix == ".parquet"]),
        "disk_mb": round(sum(file.stat().st_size for file in files) / 1e6, 2),
    }


async def next_line(process: asyncio.subprocess.Process, stage: str) -> bytes:
    """Read what a stage's process says next.

    Raises:
        RuntimeError: The process ended without a word.
    """
    assert process.stdout
    line = await process.stdout.readline()
    if not line:
        raise RuntimeError(f"{stage} ended with status {await process.wait()}; its lines above say why")
    return line


async def settled_database() -> tuple[dict[str, int], int]:
    """Count the rows of every table, and the bytes, once the server has written down what it was told."""
    before = None
    while (now := read_database()) != before:
        before = now
        await asyncio.sleep(3)
    return now


def read_database() -> tuple[dict[str, int], int]:
    """Count the rows of every table of the server's database, and its bytes."""
    with contextlib.closing(sqlite3.connect(f"file:{processes.home() / 'prefect.db'}?mode=ro", uri=True)) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        rows = {name: int(database.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0]) for name in tables}
        pages, page_bytes = (int(database.execute(f"PRAGMA {of}").fetchone()[0]) for of in ("page_count", "page_size"))
        return rows, pages * page_bytes


async def run_stage(stage: str, folder: Path, store: str, documents: int) -> None:
    """Run a stage's flow."""
    match stage:
        case "download":
            from flows.download_corpus import download_corpus

            catalogue = str(folder / "catalogue.toml")
            await download_corpus(store=store, catalogue=catalogue, max_samples=documents, rate_limit=1000.0)
        case "score":
            from flows.score_corpus import score_corpus

            await score_corpus(store=store, max_conflict_share=1.0)
        case "rebalance":
            from flows.rebalance_corpus import rebalance_corpus

            await rebalance_corpus(store=store, accept_imbalance=True)
        case "train":
            from flows.train_adapter import train_adapter

            await train_adapter(
                store=store,
                mixture="default",
                model=str(BASE_MODEL),
                max_steps=2,
                batch_size=2,
                grad_accum=1,
                lora_layers=1,
                max_seq_length=64,
                val_batches=1,
                accept_imbalance=True,
                plan_memory="off",
            )


def measure_here(stage: str, folder: Path) -> None:
    """Run a stage on a few documents, wait for the word to go, run it on all of them and print what that used."""
    warm = folder / "warm"
    for made_before in {"score": ["scored"], "rebalance": ["balanced"], "train": ["runs"]}.get(stage, []):
        shutil.rmtree(warm / made_before, ignore_errors=True)
    asyncio.run(run_stage(stage, folder, str(warm), WARM_UP_DOCUMENTS))
    print("warm", flush=True)
    sys.stdin.readline()
    before, started = processor_seconds(), time.perf_counter()
    asyncio.run(run_stage(stage, folder, str(folder / "store"), 10**9))
    seconds = time.perf_counter() - started
    used = {
        "processor_seconds": round(processor_seconds() - before, 3),
        "wall_seconds": round(seconds, 3),
        "peak_mb": round(max(peak_bytes(), children_peak_bytes()) / 1e6),
    }
    print(json.dumps(used), flush=True)


def processor_seconds() -> float:
    """Processor time of this process and of its children that ended."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def growth(lines: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Compare the marginal cost per document of every stage between the steps of growth."""
    for stage in STAGES:
        found = {line["times"]: line for line in lines if line["benchmark"] == f"scale.{stage}" and line["longer"] == 1}
        small, middle, large = (found[times] for times in TIMES)

        def marginal(field: str, low: dict[str, Any] = small, high: dict[str, Any] = middle) -> float:
            return float((high[field] - low[field]) / (high["documents"] - low["documents"]))

        first, then = marginal("processor_seconds"), marginal("processor_seconds", middle, large)
        yield {
            "benchmark": f"scale.growth.{stage}",
            "milliseconds_per_document": round(1e3 * then, 4),
            "beside_the_smaller_step": round(then / first, 3),
            "disk_bytes_per_document": round(1e6 * marginal("disk_mb", middle, large)),
            "database_rows_per_document": round(marginal("database_rows", middle, large), 4),
            "requests_per_document": round(marginal("requests", middle, large), 4),
            "memory_bytes_per_document": round(1e6 * marginal("peak_mb", middle, large)),
        }


def measure_indexes(folder: Path) -> dict[str, Any]:
    """Measure plan and manifest of 100,000 shards: processor seconds, megabytes on disk."""

    def timed(name: str, work: Callable[[], Any]) -> Any:
        started = time.process_time()
        value = work()
        seconds[f"{name}_seconds"] = round(time.process_time() - started, 3)
        return value

    seconds: dict[str, float] = {}
    items = [Item(f"item_{n:08d}", f"https://archive.example/item_{n:08d}") for n in range(SHARDS * ITEMS_PER_SHARD)]
    made = make_plan("many", "request", items, ITEMS_PER_SHARD)
    timed("write_plan", lambda: write_plan(folder, made))
    plan = timed("open_plan", lambda: read_plan(folder))
    timed("keys_of_plan", lambda: [shard.key for shard in plan.shards])
    records = [ShardRecord(file=s.file, rows=s.size, bytes=100_000 + s.index, sha256=s.key) for s in made.shards]
    timed("write_manifest", lambda: write_manifest(folder, Manifest(kind="raw", name="many", shards=records)))
    manifest = timed("read_manifest", lambda: read_manifest(folder))
    timed("digest_of_manifest", lambda: manifest.digest)
    timed("find_damage", lambda: find_damage(folder, manifest))
    sizes = {file.name: round(file.stat().st_size / 1e6, 1) for file in folder.iterdir()}
    return {"benchmark": "scale.indexes", "shards": SHARDS, "items": len(items), **seconds, "mb": sizes}


async def measure(folder: Path) -> None:
    """Measure every line and print it."""
    lines = []
    with own_server(folder / "prefect") as port:
        for times, longer in [(times, 1) for times in TIMES] + [(TIMES[1], LONGER)]:
            place = folder / f"{times}-{longer}"
            async for line in measure_scale(times, longer, place, port):
                lines.append(line)
                print(json.dumps(line), flush=True)
            shutil.rmtree(place)
    for line in [*growth(lines), *project(lines)]:
        print(json.dumps(line), flush=True)


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(Path(folder)))
        (Path(folder) / "indexes").mkdir()
        print(json.dumps(measure_indexes(Path(folder) / "indexes")), flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        measure_here(sys.argv[1], Path(sys.argv[2]))
