"""A small real store, and the studio that serves it as a user starts it."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from benchmarks.measuring import seal
from storage.layout import Layout
from storage.manifest import read_manifest, write_manifest
from storage.schemas import RAW_SCHEMA, SCORED_LAYOUT, SCORED_SCHEMA
from tasks.mixture.parameters import MixtureParameters
from tasks.signals.engine import score_table
from tests.tasks.evals.conftest import make_spec, write_base, write_run
from tests.tasks.evals.test_evaluate import evaluate
from tests.tasks.mixture.test_build import build
from tests.tasks.mixture.test_conflicts import sources_with_subjects
from tests.tasks.signals.raw_documents import raw_table

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>"
REPORT = "I saw him at ten o'clock and I told Mr. Brown. We measured 3.5 inches with a gauge at 10:15. " * 3
RELEASE = " ".join(
    f"The ministry announced today that citizens should follow guidance number {n} of the agency." for n in range(9)
)
TEXTS = [REPORT, RELEASE, f"{HOSTILE} A page that wants to run. {REPORT}", *(f"Page {n}. {REPORT}" for n in range(97))]
TRAINED = {
    "steps": 3,
    "recipe_digest": "r",
    "data_digest": "d",
    "adapter": "checkpoint-3",
    "model": "tiny llama",
    "trainable": 1,
    "parameters": 2,
    "length": {},
    "best": None,
    "train_ce": 4.5,
    "valid_ce_before": 5.0,
    "valid_ce_after": 4.0,
    "trained_tokens": 100,
    "skipped_steps": 0,
    "seconds": 1.5,
    "Z": 1.0,
    "effective_sample_share": 0.5,
    "most_repeats": 1.0,
    "tokens": 50,
    "mean_empirical_distrust": 2.0,
    "train_samples": 10,
    "train_sequences": 10,
    "valid_samples": 4,
}


def write_scored(store: Path, source: str, texts: list[str], titles: list[str], **fields: Any) -> None:
    """Write documents and their real scores, as the flows do, 20 a shard."""
    raw = raw_table(texts, **fields)
    for name, values in (("id", [f"{source}:{n}" for n in range(len(texts))]), ("title", titles)):
        raw = raw.set_column(raw.schema.get_field_index(name), raw.schema.field(name), pa.array(values))
    shards = [raw.slice(start, 20) for start in range(0, raw.num_rows, 20)]
    documents = seal(store / "raw" / source, "raw", shards, RAW_SCHEMA)
    folder = store / "scored" / source
    scores = seal(folder, "scored", map(score_table, shards), SCORED_SCHEMA, raw=documents.digest)
    write_manifest(folder, scores.model_copy(update={"parameters": {"layout": SCORED_LAYOUT}}))


def write_trained(store: Path, name: str, base: Path, mixture: Path, **changes: Any) -> Path:
    """Write a finished run with a random adapter."""
    run = write_run(store / "runs" / name, base)
    facts = TRAINED | {"model_path": str(base)} | changes
    (run / "result.json").write_text(json.dumps(facts))
    recipe = {"alpha": 2.7, "max_steps": facts["steps"]}
    record = {"balanced": str(mixture), "mixture_digest": "m", "recipe": recipe, "device": {}, "layout": ""}
    (run / "run.json").write_text(json.dumps(facts | record))
    return run


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("studio")
    folder = root / "store"
    base = write_base(root / "base")
    sources = sources_with_subjects()
    sources["patents"] = [replace(doc, text=f"{HOSTILE} {doc.text}", year=1900) for doc in sources["patents"]]
    mixture, _ = build(folder, sources, MixtureParameters(train_size=100, val_size=20, lessons_share=0.2))
    titles = ["The day book", f"An announcement {HOSTILE}", "A page", *(f"Leaf {n}" for n in range(97))]
    write_scored(folder, "books", TEXTS, titles)
    write_scored(folder, "wikis", [REPORT, RELEASE, "Nothing."] * 5, ["Leaf"] * 15, source_type="wiki", year=2020)
    run = write_trained(folder, "first", base, mixture)
    write_trained(folder, "second", base, mixture, steps=9, valid_ce_after=3.0)
    evaluate(make_spec(run, base, mixture, run / "reports", eval_limit=4))
    assert read_manifest(folder / "scored" / "patents") is not None
    return folder


@dataclass(frozen=True)
class Site:
    """A running studio."""

    port: int

    def ask(self, path: str, body: object = None, **headers: str) -> tuple[int, str, dict[str, str]]:
        """Send one request as a browser of this machine would; return status, text and headers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        content = {} if body is None else {"Content-Type": "application/json"}
        sent = None if body is None else json.dumps(body)
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("GET" if body is None else "POST", path, sent, content | given)
        response = connection.getresponse()
        try:
            return response.status, response.read().decode(), dict(response.getheaders())
        finally:
            connection.close()

    def page(self, path: str) -> str:
        status, text, _ = self.ask(path)
        assert status == 200, text
        return text


@pytest.fixture(scope="session")
def site(store: Path) -> Iterator[Site]:
    command = [sys.executable, "-m", "studio", "--store", str(store), "--port", "0"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith(f"Studio of {store}: http://127.0.0.1:"), line
    try:
        yield Site(int(line.partition("127.0.0.1:")[2].split()[0]))
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        process.stdout.close()


@pytest.fixture
def layout(store: Path) -> Layout:
    return Layout.of(str(store))
