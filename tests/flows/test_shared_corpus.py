"""The data flows on real documents with true dates (skipped without the shared corpus)."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from flows.download_corpus import download_corpus
from flows.rebalance_corpus import rebalance_corpus
from flows.score_corpus import score_corpus
from flows.summaries import summarise
from tasks.signals.priors import known_type
from tasks.signals.trivium import TRIVIUM_OF
from tests.tasks.signals.shared_corpus import sample_documents

pytestmark = pytest.mark.prefect

PER_FILE = 20


def write_documents(folder: Path) -> list[str]:
    """Write the documents of every source type as files of a user's own, and a catalogue that names them."""
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for source_type, document in sample_documents(PER_FILE):
        number = len(rows[source_type])
        rows[source_type].append(
            {"id": str(number), **{name: document.get(name) for name in ("title", "year", "text")}}
        )
    tables = []
    for name, documents in rows.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "part.jsonl").write_text("\n".join(map(json.dumps, documents)) + "\n", "utf-8")
        tables.append(
            f"[my_{name}]\narchive = 'local_files'\npath = '{folder / name}'\nsource_type = '{name}'\n"
            f"trivium = '{TRIVIUM_OF[known_type(name)]}'\n"
            "columns = {id = 'id', title = 'title', year = 'year', text = 'text'}\n"
        )
    (folder / "catalogue.toml").write_text("\n".join(tables), "utf-8")
    return [f"my_{name}" for name in rows]


async def test_real_documents_are_scored_and_balanced_with_a_report_to_read(
    tmp_path: Path, prefect_server: None
) -> None:
    store, sources = str(tmp_path / "store"), write_documents(tmp_path / "documents")
    catalogue = str(tmp_path / "documents" / "catalogue.toml")
    await download_corpus(store=store, catalogue=catalogue, sources=sources, max_samples=10_000)

    scored = await score_corpus(store=store)
    text = summarise(scored)
    counts = {band: sum(getattr(source, band) for source in scored.sources) for band in ("low", "medium", "high")}
    assert min(counts.values()) > 20
    assert text.splitlines()[0] == (
        f"{sum(counts.values())} documents: {counts['low']} low, {counts['medium']} medium, {counts['high']} high "
        "authority"
    )
    assert text.splitlines()[1].startswith("  trivium: ")

    balanced = await rebalance_corpus(store=store)
    lines = summarise(balanced).splitlines()
    assert lines[0] == str(tmp_path / "store" / "balanced" / "default")
    total = balanced.counts["train"] + balanced.counts["valid"]
    assert total > 100
    for wanted in ("training and ", "Left out: ", "Limited: "):
        assert any(wanted in line for line in lines), wanted
    bands = [line for line in lines if "Target:" in line]
    assert len(bands) == 3 and all(line.endswith("✓") for line in bands)
    assert any(line.startswith("  Mean: ") and " bits " in line for line in lines)
