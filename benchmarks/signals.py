"""Scoring, Parquet to Parquet: the engine beside its readable twin, its memory, and what the scores separate.

Made documents are drawn from a fixed seed: words with lexicon phrases, citations and years sprinkled in at about three
a thousand characters, every phrase as often as any other, which is harder on the engine than what people write;
lengths are log-normal around 7 kB. With the shared corpus beside the project, its real documents are scored as well.
Every measurement is a process of its own, engine and twin in turns; the best of a few rounds counts. What the scores
hold apart is measured by `benchmarks.scores`.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.measuring import peak_bytes, run_alone
from storage.parquet import read_shard, write_shard
from storage.schemas import RAW_SCHEMA, SCORED_SCHEMA, SCORING_VERSION
from tasks.signals.lexicon import LEXICON
from tests.tasks.signals.shared_corpus import SHARED, sample_documents

SHARDS = 4
DOCUMENTS = 2000
TWIN_DOCUMENTS = 300
ROUNDS = 5
LARGE_SHARDS = {"large.parquet": 1, "larger.parquet": 2}
"""Shards that hold the whole corpus so many times: the memory must not grow with them."""
SOURCE_TYPES = ["unknown", "wiki", "historical_newspaper", "patent_pre1970", "preprint"]
VOCABULARY = (
    "the of and to in a that it was his with as had for but not at by be on have which him they all from were so her "
    "one would there been if said when more out them into up could time then its about before other some after only "
    "water stone river engine light market harvest valley copper winter number matter motion nature reason century"
)
WORDS = VOCABULARY.split()
EXTRAS = ["[1, 2-5]", "(Smith, 2019)", "in 1923", "filed March 3, 1911", "WHO said", "[edit]", "doi:10.1", "1850"]

Document = tuple[str, str, int | None]
"""Text, source type and year."""


def make_text(rng: random.Random) -> str:
    """Draw one document, of 1 to 50 kB."""
    phrases = [phrase.text for phrase in LEXICON]
    pieces = []
    for _ in range(int(min(9000, max(180, rng.lognormvariate(6.9, 0.7))))):
        chance = rng.random()
        pieces.append(rng.choice(phrases) if chance < 0.012 else rng.choice(EXTRAS if chance < 0.018 else WORDS))
        pieces.append("\n" if rng.random() < 0.08 else " ")
    return "".join(pieces)


def made_documents(number: int, documents: int) -> list[Document]:
    """Draw the documents of one shard."""
    rng = random.Random(number)
    texts = [make_text(rng) for _ in range(documents)]
    return [(text, rng.choice(SOURCE_TYPES), rng.choice([None, 1890, 2015])) for text in texts]


def real_documents() -> list[Document]:
    """Return the documents of the shared corpus, in a fixed random order; none without it."""
    if not (SHARED / "corpus").is_dir():
        return []
    documents = [(found["text"], kind, found["year"]) for kind, found in sample_documents(10_000)]
    random.Random(0).shuffle(documents)
    return documents


def write_documents(path: Path, documents: list[Document]) -> None:
    """Write documents as a raw shard."""
    rows = [
        {
            "id": f"{path.stem}:{row}",
            "source": "benchmark",
            "source_type": source_type,
            "year": year,
            "year_evidence": "metadata",
            "text": text,
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
            "fetched_at": datetime(2026, 1, 1, tzinfo=UTC),
            "extra": "{}",
        }
        for row, (text, source_type, year) in enumerate(documents)
    ]
    write_shard(path, pa.Table.from_pylist(rows, RAW_SCHEMA), RAW_SCHEMA)


def score_with_engine(folder: Path, shards: list[str]) -> None:
    """Score shards as the flow does: on more than one thread, two at a time."""
    from tasks.signals.shards import score_shard

    with ThreadPoolExecutor(min(2, int(os.environ["POLARS_MAX_THREADS"]))) as pool:
        list(pool.map(lambda shard: score_shard(folder / "raw" / shard, folder / "scored" / shard, None), shards))


def score_with_twin(folder: Path, shards: list[str]) -> None:
    """Score shards with the reference, with the same output."""
    from dataclasses import asdict

    from tasks.signals.reference import score_document

    for shard in shards:
        rows: list[dict[str, Any]] = []
        for row in read_shard(folder / "raw" / shard, RAW_SCHEMA).to_pylist():
            score = asdict(score_document(row["text"], row["source_type"], row["year"], row))
            rows.append({"id": row["id"], "scoring_version": SCORING_VERSION, **score})
        write_shard(folder / "scored-by-twin" / shard, pa.Table.from_pylist(rows, SCORED_SCHEMA), SCORED_SCHEMA)


def measure(folder: Path, how: str, threads: int, shards: list[str]) -> dict[str, float]:
    """Run one measurement in a process of its own."""
    environment = os.environ | {"POLARS_MAX_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    return dict(run_alone("signals", how, folder, *shards, environment=environment))


def measured(how: str, folder: Path, shards: list[str]) -> dict[str, float]:
    """Score, and tell the seconds and the peak memory of this process."""
    work = {"engine": score_with_engine, "twin": score_with_twin}[how]
    if how == "engine":
        work(folder, ["warm-up.parquet"])
    started, used = time.perf_counter(), time.process_time()
    work(folder, shards)
    return {
        "seconds": time.perf_counter() - started,
        "processor_seconds": time.process_time() - used,
        "peak_megabytes": peak_bytes() / 1e6,
    }


def compare(folder: Path, kind: str, corpus: list[list[Document]]) -> dict[str, Any]:
    """Measure documents per second of twin and engine on one and two threads, in turns.

    Args:
        folder: An empty folder.
        kind: What the documents are.
        corpus: The documents of every shard. The twin scores the first `TWIN_DOCUMENTS` of the first.
    """
    shards = [f"shard-{number:05d}.parquet" for number in range(len(corpus))]
    for shard, documents in zip(shards, corpus, strict=True):
        write_documents(folder / "raw" / shard, documents)
    write_documents(folder / "raw" / "warm-up.parquet", corpus[0][:20])
    write_documents(folder / "raw" / "twin.parquet", corpus[0][:TWIN_DOCUMENTS])
    rounds: dict[str, list[dict[str, float]]] = {"twin": [], "one": [], "two": []}
    for _ in range(ROUNDS):
        rounds["twin"].append(measure(folder, "twin", 1, ["twin.parquet"]))
        rounds["one"].append(measure(folder, "engine", 1, shards))
        rounds["two"].append(measure(folder, "engine", 2, shards))
    size, twin_size = megabytes(chain.from_iterable(corpus)), megabytes(corpus[0][:TWIN_DOCUMENTS])
    sizes = {"twin": twin_size, "one": size, "two": size}

    def rates(clock: str) -> dict[str, float]:
        return {name: sizes[name] / min(found[clock] for found in rounds[name]) for name in rounds}

    wall, processor = rates("seconds"), rates("processor_seconds")
    for name, times in LARGE_SHARDS.items():
        write_documents(folder / "raw" / name, list(chain.from_iterable(corpus * times)))
    small, large = (measure(folder, "engine", 2, names)["peak_megabytes"] for names in (shards, list(LARGE_SHARDS)))
    return {
        "benchmark": f"signals: {kind} documents",
        "documents": sum(map(len, corpus)),
        "megabytes": round(size, 1),
        "twin_megabytes_per_second": round(wall["twin"], 2),
        "one_thread_megabytes_per_second": round(wall["one"]),
        "two_threads_megabytes_per_second": round(wall["two"]),
        "one_thread_ratio": round(wall["one"] / wall["twin"], 1),
        "one_thread_ratio_of_processor_time": round(processor["one"] / processor["twin"], 1),
        "two_threads_ratio": round(wall["two"] / wall["twin"], 1),
        "peak_megabytes": round(small),
        "peak_megabytes_of_large_shards": round(large),
    }


def megabytes(documents: Iterable[Document]) -> float:
    """Return the size of the texts in UTF-8."""
    return sum(len(text.encode()) for text, _, _ in documents) / 1e6


def main() -> None:
    """Measure and print."""
    corpora = {"made": [made_documents(number, DOCUMENTS) for number in range(SHARDS)]}
    if real := real_documents():
        corpora["real"] = [real] * SHARDS
    for kind, corpus in corpora.items():
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(compare(Path(folder), kind, corpus)), flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measured(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])))
    else:
        main()
