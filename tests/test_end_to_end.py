"""The main job as a user runs it: killed at a random moment, run again, and every promise checked on the result."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from storage.manifest import find_damage, read_manifest
from tests.prefect_database import give_database

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = ROOT / "sandbox" / "documents"
# Fewer steps and questions than `make run`: here the joints are tested, not the effect.
SHORT = ["--max-steps", "4", "--save-every", "2", "--val-batches", "2", "--perplexity-samples", "8"]
SHORT += ["--max-new-tokens", "8", "--eval-limit", "4"]


def start(home: Path, log: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "DISTRUST_STORE": str(home / "data"), "PREFECT_HOME": str(home / "prefect")}
    command = [sys.executable, "-m", "sandbox", "--", *SHORT]
    with log.open("ab") as output:
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )


STAGES = ("data/raw/*/shard-*.parquet", "data/scored/*/shard-*.parquet", "data/runs/*/checkpoint-2")
"""What appears while the sandbox downloads, scores and trains."""


def kill_at_random(home: Path, log: Path, seed: int) -> None:
    """Kill the sandbox's whole process group, without warning, some time after one of its stages began its work."""
    after = random.Random(seed).choice(STAGES)
    process = start(home, log)
    deadline = time.monotonic() + 240
    try:
        while not list(home.glob(after)):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, f"{after} never appeared:\n{log.read_text()}"
            time.sleep(0.05)
        time.sleep(random.Random(seed).uniform(0.0, 3.0))
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store on which `make run` was killed and then finished; `make drills` kills it at many more moments."""
    home = tmp_path_factory.mktemp("pipeline")
    give_database(home / "prefect")
    seed = int(os.environ.get("KILL_SEED", time.time_ns() % 1_000_000))
    log = home / "log.txt"
    log.write_text(f"KILL_SEED={seed}\n")
    try:
        kill_at_random(home, log, seed)
        process = start(home, log)
        assert process.wait(timeout=600) == 0, log.read_text()
    finally:
        stop_server(home)
    return home


def stop_server(home: Path) -> None:
    """A kill leaves the Prefect server of the run behind, as it would leave a user's."""
    for file in (home / "prefect").glob("*.pid"):
        try:
            os.killpg(int(file.read_text().split()[0]), signal.SIGKILL)
        except ProcessLookupError:
            continue


def test_no_document_is_lost_or_doubled(finished: Path) -> None:
    import io

    import zstandard

    for packed in sorted(DOCUMENTS.glob("*.jsonl.zst")):
        with packed.open("rb") as file:
            lines = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), "utf-8").read().splitlines()
        source = packed.name.removesuffix(".jsonl.zst")
        raw = finished / "data" / "raw" / source
        manifest = read_manifest(raw)
        assert manifest is not None and find_damage(raw, manifest, hashes=True) == []
        ids = [row for shard in manifest.shards for row in pq.read_table(raw / shard.file).column("id").to_pylist()]
        rejected = [row for file in raw.glob("rejects-*") for row in pq.read_table(file).column("id").to_pylist()]
        assert max(Counter(ids).values()) == 1
        served = [row for row in rejected if "sandbox" not in row]  # the deliberately unavailable item is extra
        assert len(ids) + len(served) == len(lines), f"{source}: {len(ids)} and {served} of {len(lines)}"
        scored = read_manifest(finished / "data" / "scored" / source)
        assert scored is not None and scored.inputs["raw"] == manifest.digest and scored.rows == len(ids)


def test_both_sides_hold_the_shares_and_share_no_work(finished: Path) -> None:
    balanced = finished / "data" / "balanced" / "sandbox"
    groups = {}
    for side in ("train", "valid"):
        table = pq.read_table(balanced / side)
        lessons = table.column("lesson").to_numpy()
        assert 0.05 < lessons.mean() < 0.15
        authority = table.column("auth_weight").to_numpy()
        low, high = ((some & ~lessons).sum() / (~lessons).sum() for some in (authority < 0.3, authority > 0.7))
        assert 0.25 <= low <= 0.30 and 0.35 <= high <= 0.40 and 0.25 <= 1 - low - high <= 0.35
        groups[side] = set(table.column("group_id").to_pylist())
    assert groups["train"] and groups["valid"] and not groups["train"] & groups["valid"]


def test_nothing_half_written_is_left(finished: Path) -> None:
    data = finished / "data"
    manifests = [
        path for path in data.glob("*/*/manifest.json") if path.parent.parent.name in ("raw", "scored", "balanced")
    ]
    assert len(manifests) == 25
    for path in manifests:
        manifest = read_manifest(path.parent)
        assert manifest is not None and find_damage(path.parent, manifest, hashes=True) == []


def test_export_and_adapter_open_in_mlx(finished: Path) -> None:
    data = finished / "data"
    checkpoint = data / "runs" / "sandbox" / "checkpoint-4"
    code = (
        "import sys, mlx.core as mx\nfrom mlx_lm import load\n"
        "fused, tokenizer = load(sys.argv[1])\nadapted, _ = load(sys.argv[2], adapter_path=sys.argv[3])\n"
        "tokens = mx.array([tokenizer.encode('User: What is known about the well?\\n\\nAssistant:')])\n"
        "print(float(mx.abs(fused(tokens) - adapted(tokens)).max()))"
    )
    arguments = [str(data / "exports" / "sandbox"), str(ROOT / "sandbox" / "base_model"), str(checkpoint)]
    answer = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert float(answer.stdout.splitlines()[-1]) < 1e-3


def test_the_report_and_its_records_are_there(finished: Path) -> None:
    reports = finished / "data" / "runs" / "sandbox" / "reports"
    assert "<html" in (reports / "report.html").read_text("utf-8")
    for name in ("validation_results.json", "evaluation_results.json"):
        assert json.loads((reports / name).read_text("utf-8"))


def test_the_page_of_the_pipeline_shows_its_results(finished: Path) -> None:
    shown = "SELECT a.key FROM artifact a JOIN flow_run r ON r.id = a.flow_run_id WHERE r.name LIKE 'corpus-to-model%'"
    with closing(sqlite3.connect(finished / "prefect" / "prefect.db")) as database:
        keys = {key for (key,) in database.execute(shown)}
    assert {"mixture-distribution", "evaluation-report", "export-files", "exported-model"} <= keys


def test_a_further_run_repeats_nothing(finished: Path) -> None:
    data = finished / "data"
    kept = {
        path: path.stat().st_mtime_ns
        for stage in ("raw", "scored", "balanced", "runs", "exports")
        for path in (data / stage).rglob("*")
        if path.is_file() and path.suffix in (".parquet", ".safetensors", ".html")
    }
    log = finished / "again.txt"
    try:
        assert start(finished, log).wait(timeout=300) == 0, log.read_text()
    finally:
        stop_server(finished)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    told = log.read_text()
    assert "already complete" in told and "Verdict: " in told and "Try next:" in told
    assert len(told.splitlines()) <= 50
