"""Real documents with true dates, when the folder ``../shared`` lies beside the project; tests skip without it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from benchmarks.measuring import read_rows

SHARED = Path(__file__).parents[4] / "shared"

SOURCE_TYPES = {
    "archive_org_djvu_ocr": "historical_book",
    "archive_org_philtrans_modern_ocr": "historical_book",
    "classical_philosophy": "classical_philosophy",
    "classical_literature": "classical_literature",
    "speeches_pre1970": "classical_rhetoric",
    "newspapers_ocr": "historical_newspaper",
    "patents_post1976": "patent_modern",
    "arxiv_papers": "preprint",
    "pubmed_central": "academic_paper",
    "textbooks_openstax": "academic_paper",
    "modern_news": "news_modern",
    "medical_advice": "medical_guidelines",
    "wikipedia": "wiki",
    "government_documents": "government",
}


def shared_folder(name: str) -> Path:
    """Return a folder of the shared material or skip the test."""
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"needs the shared {name} folder beside the project")
    return folder


@cache
def read_corpus(name: str) -> list[dict[str, Any]]:
    """Return all documents of one corpus file."""
    return read_rows(shared_folder("corpus") / f"{name}.jsonl.zst")


@cache
def sample_documents(per_file: int) -> list[tuple[str, dict[str, Any]]]:
    """Return (source type, document) for evenly spaced documents of every corpus file."""
    documents = []
    for name, source_type in sorted(SOURCE_TYPES.items()):
        found = read_corpus(name)
        stride = max(1, len(found) // per_file)
        documents += [(source_type, document) for document in found[::stride][:per_file]]
    return documents
