"""Makes ``tasks/signals/weights.json``: what the features of scoring v2 weigh, from a folder of documents.

    python -m benchmarks.fit_scores ../shared/corpus

A feature weighs the more the rarer it is, rate^-0.25 over all kinds alike; its sign is given and never fitted. The
slope is set so that one coordinated text in ten, all four kinds counted alike, falls into the low band. Nothing else
is learned: weights by regression kept apart the kinds that they had seen, and others worse (docs/log.md).
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.measuring import read_rows
from storage.vocabulary import LOW_BELOW
from tasks.signals.cleaning import clean_texts
from tasks.signals.marks import Blocks, read_blocks
from tasks.signals.tokens import plain_texts, tokenise
from tasks.signals.vocabulary import FEATURES, SIGNS
from tasks.signals.votes import WEIGHTS_FILE, Weights, block_weights, read_votes

PRIMARY = ("archive_org_djvu_ocr", "archive_org_philtrans_modern_ocr", "newspapers_ocr", "patents_post1976")
COORDINATED = ("wikipedia", "medical_advice", "modern_news", "government_documents")
EXPONENT, SCALE, SMOOTHING = -0.25, 0.5, 0.002
FALSE_ALARMS = 0.10
TEXTS_AT_ONCE = 30


def read_texts(texts: Sequence[str]) -> list[Blocks]:
    """Read the blocks of texts, some texts at a time."""
    plain = plain_texts(clean_texts(pl.Series("text", texts)))
    parts = (plain[start : start + TEXTS_AT_ONCE] for start in range(0, len(plain), TEXTS_AT_ONCE))
    return [read_blocks(tokenise(part), len(part)) for part in parts]


def fit(kinds: Mapping[str, list[Blocks]]) -> Weights:
    """Fit the weights to the blocks of some kinds of documents, each kind counted alike."""
    rates = np.zeros(len(FEATURES))
    for parts in kinds.values():
        weights = [block_weights(part) for part in parts]
        marks = sum(weight @ part.counts for weight, part in zip(weights, parts, strict=True))
        rates += marks / sum(map(np.sum, weights)) / len(kinds)
    sizes = (rates + SMOOTHING) ** EXPONENT
    features = SCALE * SIGNS * sizes / sizes.mean()
    unscaled = Weights(np.round(features, 3), 1.0)
    evidence = [
        np.concatenate([read_votes(part, unscaled).evidence for part in kinds[kind]])
        for kind in COORDINATED
        if kind in kinds
    ]
    values = np.concatenate(evidence)
    alike = np.concatenate([np.full(len(found), 1 / len(found)) for found in evidence])
    order = np.argsort(-values)
    alarm = values[order][np.searchsorted(np.cumsum(alike[order]), FALSE_ALARMS * len(evidence))]
    slope = math.log((1 - LOW_BELOW) / LOW_BELOW) / max(0.05, float(alarm))
    return Weights(unscaled.features, math.floor(slope * 1000) / 1000)  # rounded, it could let one more in


def read_folder(folder: Path, names: Iterable[str]) -> dict[str, list[Blocks]]:
    """Read files of JSON lines with a text each, compressed by Zstandard, by name."""
    return {name: read_texts([row["text"] for row in read_rows(folder / f"{name}.jsonl.zst")]) for name in names}


def main(folder: str) -> None:
    """Fit and write the weights."""
    weights = fit(read_folder(Path(folder), (*PRIMARY, *COORDINATED)))
    features = dict(zip(FEATURES, weights.features.tolist(), strict=True))
    WEIGHTS_FILE.write_text(json.dumps({"slope": weights.slope, "features": features}, indent=1) + "\n", "utf-8")
    print(WEIGHTS_FILE)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1])
    else:  # as `make bench` calls it
        print(json.dumps({"benchmark": "fit_scores", "skipped": "name a folder of documents to fit the weights"}))
