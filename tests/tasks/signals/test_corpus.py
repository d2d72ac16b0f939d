"""Both versions on real documents with true dates (skipped without the shared corpus)."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.measuring import area_under_curve
from storage.schemas import SCORINGS, ScoringVersion
from storage.vocabulary import LOW_BELOW, band_of
from tasks.signals.engine import score_table
from tasks.signals.priors import PRIORS
from tasks.signals.summary import summarise_tables
from tests.tasks.signals.agreement import Row, differences, table_of
from tests.tasks.signals.shared_corpus import read_corpus, sample_documents

PER_FILE = 11


def rows(*, typed: bool = True, dated: bool = True) -> list[Row]:
    return [
        (document["text"], source_type if typed else "unknown", document["year"] if dated else None, "metadata")
        for source_type, document in sample_documents(PER_FILE)
    ]


def separation(documents: list[Row], scoring: ScoringVersion = "v1") -> tuple[float, float]:
    """Separate primary from coordinated sources: by authority, and by bits."""
    kinds = np.array([PRIORS[source_type].authority for source_type, _ in sample_documents(PER_FILE)])  # type: ignore[index]
    primary, coordinated = kinds <= 0.20, kinds >= 0.75
    scored = score_table(table_of(documents), scoring=scoring)
    authority = scored.column("auth_weight").to_numpy().astype(np.float64)
    bits = scored.column("prov_entropy").to_numpy().astype(np.float64)
    return (
        area_under_curve(authority[primary], authority[coordinated]),
        area_under_curve(bits[coordinated], bits[primary]),
    )


@pytest.mark.parametrize("scoring", SCORINGS)
def test_the_engine_equals_the_reference_on_real_documents(scoring: ScoringVersion) -> None:
    documents = rows()
    assert len(documents) >= 120
    assert not differences(documents, scoring=scoring)


@pytest.mark.parametrize(
    ("known", "authority", "bits"),
    [
        ({}, 1.0, 1.0),
        ({"typed": False}, 0.92, 0.97),
        ({"dated": False}, 0.997, 0.993),
    ],  # measured: 0.922, 0.970; 0.998, 0.994
    ids=["type and year", "year", "type"],
)
def test_v1_keeps_primary_and_coordinated_sources_apart(known: dict[str, bool], authority: float, bits: float) -> None:
    found = separation(rows(**known))
    assert found[0] >= authority and found[1] >= bits


def test_true_dates_leave_almost_no_conflict() -> None:
    assert summarise_tables([score_table(table_of(rows()))]).conflict_share < 0.02


def test_v1_leaves_nearly_every_document_in_the_band_of_its_prior() -> None:
    bands = score_table(table_of(rows()), scoring="v1").column("band").to_pylist()
    expected = [band_of(PRIORS[source_type].authority) for source_type, _ in sample_documents(PER_FILE)]  # type: ignore[index]
    assert np.mean([got == want for got, want in zip(bands, expected, strict=True)]) > 0.95


def by_kind(names: tuple[str, ...], per_file: int = 40) -> NDArray[np.float64]:
    """Return the authority of documents of some kinds, of unknown type and without a year."""
    texts = [found["text"] for name in names for found in read_corpus(name)[::2][:per_file]]
    scored = score_table(table_of([(text, "unknown", None, None) for text in texts]))
    return np.asarray(scored.column("auth_weight").to_numpy(), dtype=np.float64)


PRIMARY = ("archive_org_djvu_ocr", "archive_org_philtrans_modern_ocr", "newspapers_ocr", "patents_post1976")
COORDINATED = ("wikipedia", "medical_advice", "modern_news", "government_documents")


def test_v2_separates_texts_of_unknown_type_without_a_year() -> None:
    primary, coordinated = by_kind(PRIMARY), by_kind(COORDINATED)
    assert area_under_curve(primary, coordinated) > 0.88  # python -m benchmarks.scores has the figures of the whole
    assert np.mean(coordinated < LOW_BELOW) < 0.10


def test_v2_says_more_than_the_label() -> None:
    documents = rows()
    scored = score_table(table_of(documents)).column("auth_weight").to_numpy()
    kinds, index = np.unique([kind for _, kind, _, _ in documents], return_inverse=True)
    means = np.array([scored[index == kind].mean() for kind in range(len(kinds))])
    assert 1 - np.var(scored - means[index]) / np.var(scored) <= 0.85
