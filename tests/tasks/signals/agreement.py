"""Compares the two implementations of scoring, row by row and component by component."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from storage.schemas import SCORED_SCHEMA, SCORING_VERSION, ScoringVersion
from tasks.signals.engine import score_table
from tasks.signals.reference import score_document
from tasks.signals.years import RUN_YEAR

FLOAT64_TOLERANCE = 1e-9
FLOAT32_TOLERANCE = 1e-6

Row = tuple[str, str | None, int | None, str | None]
"""Text, source type, year, year evidence."""


def table_of(rows: Sequence[Row]) -> pa.Table:
    texts, source_types, years, evidences = zip(*rows, strict=True) if rows else ((), (), (), ())
    return pa.table(
        {
            "id": pa.array([f"row:{i}" for i in range(len(rows))], pa.string()),
            "text": pa.array(texts, pa.string()),
            "source_type": pa.array(source_types, pa.string()),
            "year": pa.array(years, pa.int32()),
            "year_evidence": pa.array(evidences, pa.string()),
        }
    )


def differences(rows: Sequence[Row], run_year: int = RUN_YEAR, scoring: ScoringVersion = SCORING_VERSION) -> list[str]:
    """List where the engine's scores differ from the reference's."""
    scored = score_table(table_of(rows), run_year=run_year, scoring=scoring)
    assert scored.schema == SCORED_SCHEMA
    found = []
    for i, (row, output) in enumerate(zip(rows, scored.to_pylist(), strict=True)):
        text, source_type, year, evidence = row
        score = score_document(text, source_type, year, {"year_evidence": evidence}, run_year=run_year, scoring=scoring)
        expected: dict[str, Any] = asdict(score) | {"id": f"row:{i}", "scoring_version": scoring}
        for path, got, want in _leaves("", output, expected):
            tolerance = FLOAT64_TOLERANCE if path.startswith(".components") else FLOAT32_TOLERANCE
            same = math.isclose(got, want, rel_tol=0, abs_tol=tolerance) if isinstance(want, float) else got == want
            if not same:
                found.append(f"row {i} {path}: engine {got!r}, reference {want!r}, text {text[:200]!r}")
    return found


def _leaves(path: str, got: Any, want: Any) -> list[tuple[str, Any, Any]]:
    if not isinstance(want, dict) or got is None:
        return [(path, got, want)]
    assert set(got) == set(want), path
    return [leaf for key in want for leaf in _leaves(f"{path}.{key}", got[key], want[key])]
