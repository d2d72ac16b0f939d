"""Sealed raw and scored datasets out of a folder of documents, for the benchmarks of mixtures and trainings."""

from __future__ import annotations

import json
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.measuring import read_rows, seal
from storage.manifest import require_manifest
from storage.parquet import read_shard
from storage.schemas import RAW_SCHEMA, SCORED_SCHEMA
from tasks.signals.engine import score_table
from tests.tasks.signals.shared_corpus import SOURCE_TYPES

ROOT = Path(__file__).parents[1]
BUNDLED = ROOT / "sandbox" / "documents"
CATALOGUE = ROOT / "tasks" / "sources" / "catalogue.toml"

Row = dict[str, Any]


def write_raw(folder: Path, store: Path) -> dict[str, Path]:
    """Write a folder of documents as sealed raw datasets."""
    catalogue = tomllib.loads(CATALOGUE.read_text("utf-8"))
    raw = {}
    for path in sorted(folder.glob("*.jsonl.zst")):
        source = path.name.partition(".")[0]
        kind = SOURCE_TYPES.get(source) or catalogue.get(source, {}).get("source_type", source)
        rows = [_row(source, kind, number, document) for number, document in enumerate(read_rows(path))]
        raw[source] = store / "raw" / source
        seal(raw[source], "raw", [pa.Table.from_pylist(rows, schema=RAW_SCHEMA)], RAW_SCHEMA)
    return raw


def _row(source: str, kind: str, number: int, document: Row) -> Row:
    work = document.get("part_of") or document.get("doc_id")
    return {
        "id": f"{source}:{document.get('native_id') or document.get('id') or number}",
        "source": source,
        "source_type": kind,
        **{name: document.get(name) for name in ("url", "title", "author", "year", "date", "language", "licence")},
        "year_evidence": "metadata" if document.get("year") is not None else "none",
        "text": document["text"],
        "sha256": "0" * 64,
        "fetched_at": datetime(2026, 1, 1, tzinfo=UTC),
        "extra": json.dumps({"part_of": work} if work else {}),
    }


def write_scores(raw: dict[str, Path], store: Path) -> dict[str, Path]:
    """Score sealed raw datasets."""
    scored = {}
    for source, folder in raw.items():
        scored[source] = store / "scored" / source
        manifest = require_manifest(folder, "write its documents first")
        tables = (score_table(read_shard(folder / shard.file, RAW_SCHEMA)) for shard in manifest.shards)
        seal(scored[source], "scored", tables, SCORED_SCHEMA, raw=manifest.digest)
    return scored


def write_store(folder: Path, store: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Write sealed raw and scored datasets of a folder of documents."""
    raw = write_raw(folder, store)
    return raw, write_scores(raw, store)
