"""Scoring v1 on real documents with true dates (skipped without the shared corpus)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from storage.vocabulary import band_of
from tasks.signals.engine import score_table
from tasks.signals.priors import PRIORS
from tasks.signals.summary import summarise_tables
from tests.tasks.signals.agreement import Row, differences, table_of
from tests.tasks.signals.shared_corpus import sample_documents

PER_FILE = 11


def rows(*, typed: bool = True, dated: bool = True) -> list[Row]:
    return [
        (document["text"], source_type if typed else "unknown", document["year"] if dated else None, "metadata")
        for source_type, document in sample_documents(PER_FILE)
    ]


def area_under_curve(low: NDArray[np.float64], high: NDArray[np.float64]) -> float:
    """Probability that a document of the second kind scores above one of the first."""
    difference = np.subtract.outer(high, low)
    return float(np.mean(difference > 0) + np.mean(difference == 0) / 2)


def separation(documents: list[Row]) -> tuple[float, float]:
    """Separate primary from coordinated sources: by authority, and by bits."""
    kinds = np.array([PRIORS[source_type].authority for source_type, _ in sample_documents(PER_FILE)])  # type: ignore[index]
    primary, coordinated = kinds <= 0.20, kinds >= 0.75
    scored = score_table(table_of(documents))
    authority = scored.column("auth_weight").to_numpy().astype(np.float64)
    bits = scored.column("prov_entropy").to_numpy().astype(np.float64)
    return (
        area_under_curve(authority[primary], authority[coordinated]),
        area_under_curve(bits[coordinated], bits[primary]),
    )


def test_the_engine_equals_the_reference_on_real_documents() -> None:
    documents = rows()
    assert len(documents) >= 120
    assert not differences(documents)


def test_primary_and_coordinated_sources_are_far_apart() -> None:
    assert min(separation(rows())) == 1.0


def test_the_text_alone_still_separates_dated_documents() -> None:
    authority, bits = separation(rows(typed=False))
    assert authority > 0.90  # measured: 0.922
    assert bits > 0.95  # measured: 0.970


def test_years_read_from_the_text_cost_little_separation() -> None:
    authority, bits = separation(rows(dated=False))
    assert authority > 0.98  # measured: 0.998
    assert bits > 0.98  # measured: 0.994


def test_true_dates_leave_almost_no_conflict() -> None:
    assert summarise_tables([score_table(table_of(rows()))]).conflict_share < 0.02


def test_nearly_every_document_lands_in_the_band_of_its_prior() -> None:
    bands = score_table(table_of(rows())).column("band").to_pylist()
    expected = [band_of(PRIORS[source_type].authority) for source_type, _ in sample_documents(PER_FILE)]  # type: ignore[index]
    assert np.mean([got == want for got, want in zip(bands, expected, strict=True)]) > 0.95
