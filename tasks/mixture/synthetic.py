"""A mixture of made-up documents, by which a setup proves its data preparation."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from storage.manifest import Manifest, record_shard, write_manifest
from storage.parquet import write_shard
from storage.schemas import RAW_SCHEMA, SCORED_SCHEMA, SCORING_VERSION
from storage.vocabulary import band_of
from tasks.mixture.build import build_mixture
from tasks.mixture.parameters import MixtureParameters

SHARD = "shard-00000.parquet"
KINDS = {
    # source: source type, trivium, authority, bits, documents
    "patents": ("patent_pre1970", "logic", 0.05, 7.2, 30),
    "newspapers": ("historical_newspaper", "rhetoric", 0.15, 6.0, 30),
    "preprints": ("preprint", "logic", 0.50, 3.5, 30),
    "primers": ("unknown", "grammar", 0.50, 3.0, 30),
    "encyclopedia": ("wiki", "grammar", 0.90, 1.0, 50),
    "press": ("news_modern", "rhetoric", 0.75, 1.5, 30),
}


def build_synthetic_mixture(root: Path) -> Manifest:
    """Write raw and scored shards of synthetic documents below `root`, and build a mixture of them."""
    raw, scored = {}, {}
    for source, (source_type, trivium, authority, bits, count) in KINDS.items():
        raw[source], scored[source] = root / "raw" / source, root / "scored" / source
        documents = [_document(source, source_type, number) for number in range(count)]
        scores = [
            {
                "id": document["id"],
                "auth_weight": authority,
                "prov_entropy": bits,
                "trivium_category": trivium,
                "band": band_of(authority),
                "scoring_version": SCORING_VERSION,
                "components": {"source_type": source_type},
            }
            for document in documents
        ]
        for kind, folder, rows, schema in (
            ("raw", raw[source], documents, RAW_SCHEMA),
            ("scored", scored[source], scores, SCORED_SCHEMA),
        ):
            write_shard(folder / SHARD, pa.Table.from_pylist(rows, schema), schema)
            write_manifest(folder, Manifest(kind=kind, name=source, shards=[record_shard(folder, folder / SHARD)]))
    return build_mixture(raw, scored, root / "balanced", MixtureParameters(), {})


def _document(source: str, source_type: str, number: int) -> dict[str, object]:
    text = f"Entry {number} of the {source}: " + " ".join(
        hashlib.sha256(f"{source} {number} {word}".encode()).hexdigest()[:6] for word in range(40)
    )
    return {
        "id": f"{source}:{number}",
        "source": source,
        "source_type": source_type,
        "title": f"{source} {number}",
        "year_evidence": "none",
        "text": text,
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "fetched_at": datetime(2026, 1, 1, tzinfo=UTC),
        "extra": "{}",
    }
