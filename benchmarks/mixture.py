"""A million scored rows to a balanced mixture, and near-duplicates beside datasketch; one JSON line each.

The first line is the whole stage on disk: a million short documents with 5 % exact duplicates, deduplicated, drawn,
split and written, in a process of its own. The second does the same with the shards on two further processes, as
`--runner processes` does, and counts the peak memory of all three. The last finds near-duplicates of 5-word shingles
among originals and copies of them (another layout; OCR errors of 0.5, 1 and 3 %; another header; cut by a fifth) whose
true Jaccard similarity is known, on one thread, with `datasketch` doing the same on the same texts in turns.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.measuring import children_peak_bytes, find_copies, peak_bytes, run_alone, seal
from storage.schemas import COMPONENTS, RAW_SCHEMA, SCORED_SCHEMA
from storage.vocabulary import band_of

ROWS = 1_000_000
SHARD_ROWS = 20_000
DUPLICATE_SHARE = 0.05
TRAIN_SAMPLES, VAL_SAMPLES = 756_000, 189_000
"""Nearly all that is left without the duplicates."""
SOURCES = {
    # name: source type, trivium, authority, bits, share of the rows
    "patents": ("patent_pre1970", "logic", 0.05, 7.2, 0.12),
    "philosophy": ("classical_philosophy", "logic", 0.08, 7.5, 0.04),
    "books": ("historical_book", "rhetoric", 0.10, 6.1, 0.10),
    "preprints": ("preprint", "logic", 0.50, 3.4, 0.22),
    "encyclopedia": ("unknown", "grammar", 0.55, 3.0, 0.12),
    "wiki": ("wiki", "grammar", 0.88, 1.1, 0.25),
    "news": ("news_modern", "rhetoric", 0.75, 1.5, 0.15),
}
WORDS = [f"{a}{b}{c}" for a in ("ba", "co", "di", "fe", "lu", "ma", "no") for b in "rstlm" for c in ("a", "en", "or")]

NEAR_ORIGINALS = 3000
PEER_DOCUMENTS = 500
PERMUTATIONS, BANDS, BAND_ROWS = 125, 25, 5
THRESHOLDS = ((0.8, 0.85), (0.85, 0.9), (0.9, 1.01))


def write_corpus(root: Path, rows: int) -> None:
    """Write sealed raw and scored datasets of short documents."""
    rng = np.random.default_rng(7)
    sentences = np.array([" ".join(rng.choice(WORDS, 14)).capitalize() + "." for _ in range(20_000)], dtype=object)
    for name, (source_type, trivium, authority, bits, share) in SOURCES.items():
        raws, scoreds = [], []
        count = int(rows * share)
        for start in range(0, count, SHARD_ROWS):
            size = min(SHARD_ROWS, count - start)
            chosen = sentences[rng.integers(0, len(sentences), (size, 4))]
            texts = chosen[:, 0] + " " + chosen[:, 1] + " " + chosen[:, 2] + " " + chosen[:, 3]
            copies = rng.integers(1, size, int(size * DUPLICATE_SHARE))
            texts[copies] = texts[copies - 1]
            ids = [f"{name}:{start + row}" for row in range(size)]
            weights = np.clip(authority + rng.normal(0, 0.01, size), 0, 0.99).astype(np.float32)
            raws.append(raw_table(name, source_type, ids, texts))
            scoreds.append(scored_table(ids, weights, bits, trivium, source_type))
        documents = seal(root / "raw" / name, "raw", raws, RAW_SCHEMA)
        seal(root / "scored" / name, "scored", scoreds, SCORED_SCHEMA, raw=documents.digest)


def raw_table(source: str, source_type: str, ids: Sequence[str], texts: Sequence[str]) -> pa.Table:
    """Make raw rows."""
    size = len(ids)
    columns: dict[str, Any] = {
        "id": pa.array(ids),
        "source": pa.repeat(source, size),
        "source_type": pa.repeat(source_type, size),
        "title": pa.array([f"On {text[:24].rsplit(' ', 1)[0].lower()}" for text in texts]),
        "year": pa.repeat(pa.scalar(1900, pa.int32()), size),
        "year_evidence": pa.repeat("metadata", size),
        "text": pa.array(list(texts)),
        "sha256": pa.repeat(hashlib.sha256().hexdigest(), size),
        "fetched_at": pa.repeat(pa.scalar(datetime(2026, 1, 1, tzinfo=UTC), pa.timestamp("us", "UTC")), size),
        "extra": pa.repeat("{}", size),
    }
    return pa.table([columns.get(field.name, pa.nulls(size, field.type)) for field in RAW_SCHEMA], RAW_SCHEMA.names)


def scored_table(ids: Sequence[str], weights: Any, bits: float, trivium: str, source_type: str) -> pa.Table:
    """Make their scores, with the one component that the mixture reads."""
    size = len(ids)
    parts = [
        pa.repeat(source_type, size).cast(field.type) if field.name == "source_type" else pa.nulls(size, field.type)
        for field in COMPONENTS
    ]
    columns = [
        pa.array(ids),
        pa.array(weights),
        pa.repeat(pa.scalar(bits, pa.float32()), size),
        pa.repeat(trivium, size),
        pa.array([band_of(float(weight)) for weight in weights]),
        pa.repeat("v1", size),
        pa.StructArray.from_arrays(parts, fields=list(COMPONENTS)),
    ]
    return pa.table(columns, SCORED_SCHEMA.names)


def build(root: Path, where: str) -> dict[str, Any]:
    """Build the mixture in this process, or with the shards on two others, and tell its cost."""
    from tasks.mixture.build import build_mixture
    from tasks.mixture.parameters import MixtureParameters
    from tasks.mixture.shards import on_threads

    started = time.perf_counter()
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        manifest = build_mixture(
            {name: root / "raw" / name for name in SOURCES},
            {name: root / "scored" / name for name in SOURCES},
            root / "balanced",
            MixtureParameters(train_size=TRAIN_SAMPLES, val_size=VAL_SAMPLES, near_duplicates=False),
            {},
            on_threads if where == "threads" else lambda work, calls: pool.map(work, *zip(*calls, strict=True)),
        )
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    peak = peak_bytes() + 2 * children_peak_bytes()
    return {
        "seconds": round(time.perf_counter() - started, 1),
        "processor_seconds": round(sum(part.ru_utime + part.ru_stime for part in used), 1),
        "peak_megabytes": round(peak / 1e6),
        **manifest.counts,
    }


def make_originals(rng: random.Random) -> list[str]:
    """Draw documents of up to 5 kB from a skewed vocabulary of 4,000 words."""
    words = [
        "".join(rng.choice("bcdfglmnprst") + rng.choice("aeiou") for _ in range(rng.randint(1, 4))) for _ in range(4000)
    ]
    weights = [1 / (rank + 3) for rank in range(len(words))]
    return [" ".join(rng.choices(words, weights, k=rng.randint(80, 800))) for _ in range(NEAR_ORIGINALS)]


def spoil(text: str, how: str, rng: random.Random) -> str:
    """Make a copy of a document as archives make them."""
    if how == "layout":
        return text.upper().replace(" ", "\n", 40).replace(" ", "  ", 40)
    if how.startswith("ocr"):
        rate = float(how.removeprefix("ocr "))
        return "".join(rng.choice("xqz1") if char != " " and rng.random() < rate else char for char in text)
    words = text.split()
    if how == "header":
        return " ".join([f"scan {rng.random()}", *words[len(words) // 25 :]])
    return " ".join(words[: len(words) * 4 // 5])


WAYS = ("layout", "ocr 0.005", "ocr 0.01", "ocr 0.03", "header", "cut")


def jaccard(left: str, right: str) -> float:
    """Compare two texts by their 5-word shingles."""
    sets = []
    for text in (left, right):
        words = text.lower().split()
        sets.append({tuple(words[i : i + 5]) for i in range(len(words) - 4)})
    return len(sets[0] & sets[1]) / max(1, len(sets[0] | sets[1]))


def find_near_with_peer(texts: Sequence[str]) -> float:
    """Do the same with datasketch: signatures, and a lookup of every document; return processor seconds."""
    from datasketch import MinHash, MinHashLSH

    started = time.process_time()
    index = MinHashLSH(num_perm=PERMUTATIONS, params=(BANDS, BAND_ROWS))
    for row, text in enumerate(texts):
        words = text.lower().split()
        sketch = MinHash(num_perm=PERMUTATIONS)
        sketch.update_batch([" ".join(words[i : i + 5]).encode() for i in range(len(words) - 4)])
        for other in index.query(sketch):
            sketch.jaccard(index_sketches[other])
        index_sketches[row] = sketch
        index.insert(row, sketch)
    return time.process_time() - started


index_sketches: dict[Any, Any] = {}


def compare_near() -> dict[str, Any]:
    """Measure rate, recall by true similarity, and merges of originals that nobody copied."""
    rng = random.Random(11)
    originals = make_originals(rng)
    copies = [(row, WAYS[row % len(WAYS)]) for row in range(0, NEAR_ORIGINALS, 2)]
    texts = originals + [spoil(originals[row], how, rng) for row, how in copies]
    ours, theirs = [], []
    for _ in range(3):
        started = time.process_time()
        clusters = find_copies(texts)
        ours.append(len(texts) / (time.process_time() - started))
        index_sketches.clear()
        theirs.append(PEER_DOCUMENTS / find_near_with_peer(texts[:PEER_DOCUMENTS]))
    similarity = [jaccard(originals[row], texts[NEAR_ORIGINALS + copy]) for copy, (row, _) in enumerate(copies)]
    same = [clusters[row] == clusters[NEAR_ORIGINALS + copy] for copy, (row, _) in enumerate(copies)]
    recall = {}
    for low, high in THRESHOLDS:
        of_range = [hit for value, hit in zip(similarity, same, strict=True) if low <= value < high]
        recall[f"recall_{low}_to_{min(high, 1):g}"] = round(sum(of_range) / len(of_range), 4) if of_range else None
    found = [hit for value, hit in zip(similarity, same, strict=True) if value >= THRESHOLDS[0][0]]
    return {
        "benchmark": "mixture: near-duplicates",
        "documents": len(texts),
        "documents_per_processor_second": round(max(ours)),
        "datasketch_documents_per_processor_second": round(max(theirs)),
        "ratio": round(max(ours) / max(theirs), 1),
        "recall_from_0.8": round(sum(found) / len(found), 4),
        "pairs_from_0.8": len(found),
        **recall,
        "false_merges": NEAR_ORIGINALS - len(set(clusters[:NEAR_ORIGINALS])),
    }


def main() -> None:
    """Measure and print, each in a process of its own and on one thread."""
    one = os.environ | {"RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        write_corpus(Path(folder), ROWS)
        for where in ("threads", "processes"):
            found = run_alone("mixture", "build", folder, where, environment=one)
            print(json.dumps({"benchmark": f"mixture: {where}", "rows": ROWS, **found}), flush=True)
    print(json.dumps(run_alone("mixture", "near", environment=one)), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["build"]:
        print(json.dumps(build(Path(sys.argv[2]), sys.argv[3])))
    elif sys.argv[1:2] == ["near"]:
        print(json.dumps(compare_near()))
    else:
        main()
