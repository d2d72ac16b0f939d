"""``python -m tests.random_kills --kills 30 [--server]``: the whole pipeline, killed at random until it has ended.

Each round starts `corpus-to-model` on archives of this machine and kills it with SIGKILL after a random time, again and
again, until it comes to its end by itself; then the next round begins on an empty store. Every round must make what the
first, undisturbed run made. Without a server the victim is a command with all its processes. With one, it is a flow of
a worker, or the worker with all its flows, which `make up` starts again.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import mlx.core as mx
import numpy as np
import pyarrow.parquet as pq

from deployments import processes, server
from flows.arguments import parse
from flows.forms import CorpusToModelParameters
from sandbox.__main__ import BUNDLED_DOCUMENTS, TINY, flow_command
from sandbox.archives import DocumentFolder, SandboxArchives, write_catalogue
from storage.manifest import find_damage, read_manifest

PATIENCE_SECONDS = 240.0
"""How long an undisturbed run may take from wherever it was; a run that waits for a dead one waits for ever."""
SMALL = {"max-steps": "40", "save-every": "10", "eval-limit": "4", "perplexity-samples": "4", "max-new-tokens": "8"}
SOURCES = "internet_archive_books,historical_newspapers,us_patents,wikipedia,scientific_papers,medical_guidelines"
FLAGS = ["--accept-imbalance", "--sources", SOURCES]
SEALED = {
    "exports/kills/manifest.json": "export",
    "runs/kills/reports/report.html": "export",
    "runs/kills/result.json": "evaluate",
    "balanced/kills/manifest.json": "train",
    "scored/*/manifest.json": "score or rebalance",
    "raw/*/manifest.json": "download or score",
}
"""What is sealed, and the stage that is under way then."""


def made(store: Path) -> dict[str, str]:
    """Digests of what the pipeline made: documents, scores, mixture, weights and export, all of them whole."""
    found = {}
    for stage, columns in (("raw", ["id", "text"]), ("scored", None), ("balanced", None)):
        for folder in sorted(path for path in (store / stage).iterdir() if path.is_dir()):
            manifest = read_manifest(folder)
            assert manifest is not None and find_damage(folder, manifest, hashes=True) == [], folder
            rows = [
                row
                for shard in manifest.shards
                for row in pq.read_table(folder / shard.file, columns=columns).to_pylist()
            ]
            keys = [row["id"] for row in rows]
            assert len(keys) == len(set(keys)), f"{folder}: a document twice"
            text = json.dumps(rows, sort_keys=True, default=str)
            found[f"{stage}/{folder.name}"] = f"{len(rows)} rows {hashlib.sha256(text.encode()).hexdigest()}"
    last = max((store / "runs" / "kills").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    for file in [last / "adapters.safetensors", *sorted((store / "exports" / "kills").glob("*.safetensors"))]:
        tensors: dict[str, mx.array] = mx.load(str(file))  # type: ignore[assignment]
        whole = hashlib.sha256()
        for name in sorted(tensors):
            whole.update(name.encode() + np.array(tensors[name].astype(mx.float32)).tobytes())
        found[f"{file.parent.name}/{file.name}"] = whole.hexdigest()
    assert not list(store.rglob(".tmp-*")), "something half-written is left"
    return found


def stage_of(store: Path) -> str:
    """Name the stage that a killed run was at, by what is in its store."""
    return next((stage for pattern, stage in SEALED.items() if list(store.glob(pattern))), "download")


class Command:
    """The pipeline as a command without a server; the victim is the command with all its processes."""

    def __init__(self, arguments: list[str], environment: dict[str, str]) -> None:
        self.arguments, self.environment = arguments, environment
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (processes.home() / "commands.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.arguments, env=self.environment, stdout=log, stderr=log, start_new_session=True, cwd=processes.ROOT
            )

    def ended(self) -> str:
        assert self.process is not None
        status = self.process.poll()
        return "" if status is None else "COMPLETED" if status == 0 else f"status {status}"

    def kill(self, dice: random.Random) -> None:
        assert self.process is not None
        for pid in processes.descendants(self.process.pid):
            if dice.random() < 0.5:  # a trainer that outlives its flow saves, and must be waited for
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Deployment:
    """The pipeline as a run of a worker; the victim is the run's process, or the worker with all of them."""

    def __init__(self, arguments: list[str], environment: dict[str, str]) -> None:
        self.environment = environment
        parameters, _ = parse("corpus-to-model", CorpusToModelParameters, arguments)
        self.parameters = parameters.model_dump(mode="json")
        self.up()

    def up(self) -> None:
        command = [sys.executable, "-m", "deployments", "up", "--port", str(server.free_port(0))]
        answer = subprocess.run(command, env=self.environment, capture_output=True, text=True, cwd=processes.ROOT)
        self.said = answer.stdout + answer.stderr
        assert answer.returncode == 0, self.said

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        access = server.running_access()
        assert access is not None
        with httpx.Client(headers={"Prefect-Csrf-Client": "kills"}, timeout=30) as client:
            token = client.get(f"{access.api_url}/csrf-token", params={"client": "kills"}).json()["token"]
            client.headers["Prefect-Csrf-Token"] = token
            return client.request(method, f"{access.api_url}/{path}", json=body).raise_for_status().json()

    def start(self) -> None:
        found = self.ask("GET", "deployments/name/corpus-to-model/corpus-to-model")
        made_run = self.ask(
            "POST", f"deployments/{found['id']}/create_flow_run", {"parameters": self.parameters | {"approve": False}}
        )
        self.run = made_run["id"]

    def state(self) -> Any:
        return self.ask("GET", f"flow_runs/{self.run}")["state"]

    def ended(self) -> str:
        state = self.state()
        if state["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
            return "COMPLETED" if state["type"] == "COMPLETED" else f"{state['type']}: {state['message']}"
        return ""

    def kill(self, dice: random.Random) -> None:
        worker = processes.living_process("worker-mac")
        assert worker is not None
        while self.state()["type"] == "SCHEDULED":  # nobody has taken it yet, so there is nothing to kill
            time.sleep(0.2)
        whole = dice.random() < 0.5
        while not whole and not processes.descendants(worker) and not self.ended():
            time.sleep(0.2)  # taken, but without a process yet
        for pid in ([worker] if whole else []) + processes.descendants(worker):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if whole:
            self.up()
        deadline = time.monotonic() + 60
        while not self.ended():
            assert time.monotonic() < deadline, (
                f"a killed run is shown at work after a minute: {self.state()}, {whole}; `make up` said: {self.said}"
            )
            time.sleep(0.5)


def survive(victim: Command | Deployment, dice: random.Random, kills: int, store: Path, at: Counter[str]) -> int:
    """Kill the pipeline until it comes to its end or has been killed often enough; return how many kills are left."""
    while True:
        victim.start()
        deadline = time.monotonic() + (dice.uniform(4.0, 45.0) if kills else PATIENCE_SECONDS)
        while not (end := victim.ended()) and time.monotonic() < deadline:
            time.sleep(0.2)
        if end:
            log = processes.home() / "commands.log"
            told = log.read_text("utf-8", errors="replace")[-2000:] if log.is_file() else ""
            assert end == "COMPLETED", f"a run that was left alone ended as {end}: {told}"
            return kills
        assert kills, f"a run that was left alone has not ended after {PATIENCE_SECONDS:.0f} s"
        at[stage_of(store)] += 1
        victim.kill(dice)
        kills -= 1


async def main() -> None:
    """Kill, compare, and print what was found as one JSON line."""
    parser = argparse.ArgumentParser(prog="python -m tests.random_kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--server", action="store_true", help="runs of a worker on the server of `make up`")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    options = parser.parse_args()
    dice, begun, at = random.Random(options.seed), time.monotonic(), Counter[str]()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        root, left, rounds = Path(folder), options.kills, 0
        os.environ |= {"PREFECT_HOME": str(root / "prefect"), "DISTRUST_BLOCKS": "none-saved"}
        os.environ.pop("PREFECT_API_URL", None)
        async with SandboxArchives(DocumentFolder(BUNDLED_DOCUMENTS)) as archives:
            write_catalogue(root / "catalogue.toml", archives.summaries)
            TINY.update(SMALL)
            os.environ |= archives.environment | {"HF_HOME": str(root / "hf")}
            command = flow_command(root / "catalogue.toml", "kills", str(root / "store"), FLAGS)
            kind = Deployment if options.server else Command
            victim = await asyncio.to_thread(kind, command[4 if options.server else 0 :], dict(os.environ))
            store = root / "store"
            try:
                await asyncio.to_thread(survive, victim, dice, 0, store, at)
                expected = made(store)
                while left:
                    shutil.rmtree(store)
                    left = await asyncio.to_thread(survive, victim, dice, left, store, at)
                    rounds += 1
                    assert made(store) == expected, "the round made something else than the undisturbed run"
            finally:
                down = [sys.executable, "-m", "deployments", "down"]
                subprocess.run(down, cwd=processes.ROOT, check=False, capture_output=True)
    result = {
        "seed": options.seed,
        "server": options.server,
        "kills": options.kills,
        "killed_at": dict(at),
        "rounds_that_made_the_same": rounds,
        "documents": sum(int(what.split()[0]) for name, what in expected.items() if name.startswith("raw/")),
        "seconds": round(time.monotonic() - begun),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    asyncio.run(main())
