"""Scores generated documents with the engine and with the reference; prints one JSON line.

The documents are drawn from a fixed seed: plain words, with lexicon phrases, citations and years sprinkled in at
about three a thousand characters, as dense as a modern abstract and hence hard on both.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable

import pyarrow as pa

from tasks.signals.engine import score_table
from tasks.signals.lexicon import LEXICON
from tasks.signals.reference import score_document

DOCUMENTS = 2000
REFERENCE_DOCUMENTS = 100
ROUNDS = 3
VOCABULARY = (
    "the of and to in a that it was his with as had for but not at by be on have which him they all from were so her "
    "one would there been if said when more out them into up could time then its about before other some after only "
    "water stone river engine light market harvest valley copper winter number matter motion nature reason century"
)
WORDS = VOCABULARY.split()
EXTRAS = ["[1, 2-5]", "(Smith, 2019)", "in 1923", "filed March 3, 1911", "WHO said", "[edit]", "doi:10.1", "1850"]


def make_text(rng: random.Random) -> str:
    """Draw one document of some 2 to 12 thousand characters."""
    phrases = [phrase.text for phrase in LEXICON]
    pieces = []
    for _ in range(rng.randint(400, 2400)):
        chance = rng.random()
        pieces.append(rng.choice(phrases) if chance < 0.012 else rng.choice(EXTRAS if chance < 0.018 else WORDS))
        pieces.append("\n" if rng.random() < 0.08 else " ")
    return "".join(pieces)


def best_seconds(work: Callable[[], object]) -> float:
    """Return the shortest of a few rounds."""
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def main() -> None:
    """Measure and print."""
    rng = random.Random(20260101)
    texts = [make_text(rng) for _ in range(DOCUMENTS)]
    table = pa.table({"id": [str(i) for i in range(DOCUMENTS)], "text": texts, "source_type": ["unknown"] * DOCUMENTS})
    score_table(table.slice(0, 10))
    engine = DOCUMENTS / best_seconds(lambda: score_table(table))
    few = texts[:REFERENCE_DOCUMENTS]
    reference = REFERENCE_DOCUMENTS / best_seconds(lambda: [score_document(text, "unknown") for text in few])
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    print(
        json.dumps(
            {
                "benchmark": "scoring",
                "documents": DOCUMENTS,
                "megabytes": round(megabytes, 1),
                "engine_documents_per_second": round(engine),
                "engine_megabytes_per_second": round(engine * megabytes / DOCUMENTS, 1),
                "reference_documents_per_second": round(reference),
                "ratio": round(engine / reference, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
