"""Small generated corpora for the tests of this room."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.measuring import seal
from storage.schemas import RAW_SCHEMA, SCORED_SCHEMA
from storage.vocabulary import band_of

SYLLABLES = ("ka", "lo", "mi", "ten", "ra", "sol", "ve", "dun", "pri", "ast", "or", "gel", "hu", "bra", "nox", "ti")


def make_words(rng: random.Random, count: int) -> list[str]:
    return ["".join(rng.choices(SYLLABLES, k=rng.randint(1, 4))) for _ in range(count)]


def make_text(rng: random.Random, words: int) -> str:
    sentences = []
    while words > 0:
        size = min(words, rng.randint(5, 18))
        sentences.append(" ".join(make_words(rng, size)).capitalize() + ".")
        words -= size
    return " ".join(sentences)


@dataclass(frozen=True)
class Doc:
    id: str
    text: str
    auth: float
    trivium: str
    title: str | None = "A title"
    entropy: float = 5.0
    year: int | None = None
    part_of: str | None = None
    source_type: str = "unknown"
    asked_for: str | None = None


def write_source(root: Path, source: str, docs: Iterable[Doc], shard_docs: int = 100) -> tuple[Path, Path]:
    """Write sealed raw and scored folders of one source; without documents it has a shard without rows."""
    raw, scored = root / "raw" / source, root / "scored" / source
    docs = list(docs)
    parts = [docs[start : start + shard_docs] for start in range(0, max(1, len(docs)), shard_docs)]
    rows = [pa.Table.from_pylist([_raw_row(source, doc) for doc in some], schema=RAW_SCHEMA) for some in parts]
    scores = [pa.Table.from_pylist([_scored_row(doc) for doc in some], schema=SCORED_SCHEMA) for some in parts]
    documents = seal(raw, "raw", rows, RAW_SCHEMA)
    seal(scored, "scored", scores, SCORED_SCHEMA, raw=documents.digest)
    return raw, scored


def make_corpus(
    root: Path, sources: Mapping[str, Iterable[Doc]], shard_docs: int = 100
) -> tuple[dict[str, Path], dict[str, Path]]:
    raw, scored = {}, {}
    for source, docs in sources.items():
        raw[source], scored[source] = write_source(root, source, docs, shard_docs)
    return raw, scored


def balanced_sources(seed: int = 1, low: int = 120, medium: int = 90, high: int = 130) -> dict[str, list[Doc]]:
    """Return documents of four sources that fill every band; some books are cut into parts."""
    rng = random.Random(seed)
    sources: dict[str, list[Doc]] = {"patents": [], "novels": [], "preprints": [], "encyclopedia": []}
    for i in range(low):
        if i % 3:
            sources["patents"].append(_doc(rng, f"patents:{i}", 0.05, "logic", 7.2, 1921))
        else:
            book = f"book-{i // 9}"
            sources["novels"].append(_doc(rng, f"novels:{i}", 0.12, "rhetoric", 6.1, 1890, book))
    for i in range(medium):
        sources["preprints"].append(_doc(rng, f"preprints:{i}", 0.5, ("logic", "grammar")[i % 2], 3.4, 2016))
    for i in range(high):
        sources["encyclopedia"].append(_doc(rng, f"encyclopedia:{i}", 0.9, ("grammar", "rhetoric")[i % 2], 1.1, 2023))
    return sources


def _doc(
    rng: random.Random, name: str, auth: float, trivium: str, entropy: float, year: int, part_of: str | None = None
) -> Doc:
    title = " ".join(make_words(rng, 2)).title()
    return Doc(name, make_text(rng, rng.randint(60, 260)), auth, trivium, title, entropy, year, part_of)


def _raw_row(source: str, doc: Doc) -> dict[str, Any]:
    return {
        "id": doc.id,
        "source": source,
        "source_type": doc.source_type,
        "url": f"https://example.org/{doc.id}",
        "title": doc.title,
        "author": None,
        "year": doc.year,
        "year_evidence": "metadata" if doc.year else "none",
        "date": None,
        "language": "en",
        "licence": "public-domain",
        "text": doc.text,
        "sha256": "0" * 64,
        "fetched_at": datetime(2026, 1, 1, tzinfo=UTC),
        "extra": json.dumps(
            {name: kept for name in ("part_of", "asked_for") if (kept := getattr(doc, name)) is not None}
        ),
    }


def _scored_row(doc: Doc) -> dict[str, Any]:
    return {
        "id": doc.id,
        "auth_weight": doc.auth,
        "prov_entropy": doc.entropy,
        "trivium_category": doc.trivium,
        "band": band_of(doc.auth),
        "scoring_version": "v1",
        "components": {
            "source_type": doc.source_type,
            "year": doc.year or 1969,
            "year_evidence": "metadata" if doc.year else "none",
        },
    }
