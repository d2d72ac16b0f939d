from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.schemas import COMPONENTS, EVIDENCE_TYPES, SCORINGS, TIERS, ScoringVersion
from storage.vocabulary import SOURCE_TYPES
from tasks.signals.reference import Components, score_document
from tests.tasks.signals.agreement import differences
from tests.tasks.signals.shared_corpus import shared_folder

OWN_EXAMPLES = Path(__file__).with_name("examples")
AUTHORITY_TOLERANCE = 0.03
BITS_TOLERANCE = 0.3


class Vector(NamedTuple):
    text: str
    source_type: str
    given_year: int | None
    auth_weight: float
    prov_entropy: float
    text_auth: float
    text_bits: float
    year: int | None
    counts: tuple[int, int, int]
    """Citations, consensus, primary."""
    final_type: str | None = None


VECTORS = [
    Vector("", "unknown", None, 0.5, 3.0, 0.3, 3.5, None, (0, 0, 0)),
    Vector("A man who came home.", "wiki", None, 0.9, 1.0, 0.45, 1.5, 9999, (0, 0, 0)),
    Vector(
        "Patented July 31, 1923. Be it known that I measured the specimen.",
        *("patent_pre1970", None, 0.043766, 7.244814, 0.013636, 8.428083, 1923, (0, 0, 6)),
    ),
    Vector(
        "MAN WHO SHOT MAYOR IS HELD, 1911",
        *("historical_newspaper", None, 0.15, 6.0, 0.15, 5.5, 1911, (0, 0, 0)),
    ),
    Vector(
        "WHO said studies show it (Smith, 2019) [1, 2-5]. See who.int, Retrieved 3 May 2024.",
        *("medical_guidelines", None, 0.862931, 1.127619, 0.914655, 0.838095, 2024, (2, 1, 0)),
    ),
    Vector(
        "Patent No. 5,123,456. Filed Mar. 3, 1998. The inventors measured it.",
        *("patent_pre1970", None, 0.309643, 4.308869, 0.35625, 3.385071, 1998, (0, 0, 3), "patent_modern"),
    ),
    Vector(
        "lab\nnotebook and Lab-Notebook, not labnotebook; I9l4, 1914, 2000 volts",
        *("unknown", None, 0.315556, 4.444444, 0.038889, 6.611111, 1914, (0, 0, 4)),
    ),
    Vector(
        "x " * 6000 + "experiment experiment letter to",
        *("unknown", 1950, 0.296211, 5.027219, 0.092422, 7.054439, 1950, (0, 0, 3)),
    ),
]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.text[:24] or "empty")
def test_vectors_of_scoring_v1(vector: Vector) -> None:
    score = score_document(vector.text, vector.source_type, vector.given_year, scoring="v1")
    why = score.components
    numbers = (score.auth_weight, score.prov_entropy, why.text_auth, why.text_bits)
    assert tuple(round(number, 6) for number in numbers) == vector[3:7]
    assert why.year == vector.year
    assert (why.n_citations, why.n_consensus, why.n_primary) == vector.counts
    assert why.conflict == (vector.final_type is not None)
    assert why.source_type == (vector.final_type or vector.source_type)


def test_the_engine_gives_the_same_vectors() -> None:
    rows = [(vector.text, vector.source_type, vector.given_year, None) for vector in VECTORS]
    assert not differences(rows, scoring="v1") + differences(rows)


GUIDE = {
    "patent": ("patent_pre1970", 1923, 0.05, 7.8),
    "notebook": ("lab_notebook", 1950, 0.08, 8.1),
    "arxiv": ("preprint", None, 0.50, 3.5),
    "who": ("medical_guidelines", 2024, 0.88, 1.2),
    "wiki": ("wiki", 2024, 0.92, 0.9),
}


@pytest.mark.parametrize("scoring", SCORINGS)
@pytest.mark.parametrize("letter", ["A", "B"])
@pytest.mark.parametrize("name", GUIDE)
def test_the_guides_five_examples(name: str, letter: str, scoring: ScoringVersion) -> None:
    source_type, year, authority, bits = GUIDE[name]
    text = (shared_folder("design") / "examples" / f"{name}_{letter}.txt").read_text("utf-8")
    score = score_document(text, source_type, year, scoring=scoring)
    assert score.auth_weight == pytest.approx(authority, abs=AUTHORITY_TOLERANCE)
    assert score.prov_entropy == pytest.approx(bits, abs=BITS_TOLERANCE)


@pytest.mark.parametrize(
    ("name", "source_type", "year", "authority", "bits", "band"),
    [
        ("patent_1911.txt", "patent_pre1970", 1911, 0.05, 7.8, "low"),
        ("press_release_2023.txt", "medical_guidelines", 2023, 0.88, 1.2, "high"),
    ],
)
def test_two_examples_of_our_own(
    name: str, source_type: str, year: int, authority: float, bits: float, band: str
) -> None:
    score = score_document((OWN_EXAMPLES / name).read_text("utf-8"), source_type)
    assert score.components.year == year
    assert score.components.year_evidence == "text"
    assert score.auth_weight == pytest.approx(authority, abs=AUTHORITY_TOLERANCE)
    assert score.prov_entropy == pytest.approx(bits, abs=BITS_TOLERANCE)
    assert score.band == band


def test_the_components_are_the_stores_fields() -> None:
    assert [field.name for field in COMPONENTS] == list(Components.__annotations__)
    score = score_document("CNN measured it.", "wiki", scoring="v1")
    assert tuple(score.components.tiers or ()) == TIERS
    assert tuple(score.components.types or ()) == EVIDENCE_TYPES


@pytest.mark.parametrize(
    ("year", "metadata", "found", "evidence"),
    [
        (1923, None, 1923, "metadata"),
        (1923, {"year": 1950}, 1923, "metadata"),
        (1923, {"year_evidence": "text"}, 1923, "text"),
        (1923, {"year_evidence": "none"}, 1923, "metadata"),
        (None, {"date": "1950-01-02"}, 1950, "metadata"),
        (True, None, 1887, "text"),
        (20240101, None, 1887, "text"),
        (-375, None, 1887, "text"),
        (None, {"published": True}, 1887, "text"),
    ],
)
def test_where_the_year_comes_from(
    year: int | None, metadata: dict[str, object] | None, found: int, evidence: str
) -> None:
    why = score_document("Written in 1887.", "unknown", year, metadata).components
    assert (why.year, why.year_evidence) == (found, evidence)


def test_a_year_from_the_registry_is_no_evidence() -> None:
    why = score_document("Undated.", "historical_book").components
    assert (why.year, why.year_evidence, why.conflict) == (1928, "none", False)


def test_a_missing_source_type_is_unknown() -> None:
    assert score_document("x", None) == score_document("x", "lab_diary") == score_document("x", "unknown")


def test_the_run_year_is_a_parameter() -> None:
    text = "Updated 2031. Officials said studies show it."
    assert score_document(text, "unknown", run_year=2031).components.year == 2031
    assert score_document(text, "unknown").components.year is None


@given(st.text(max_size=200), st.sampled_from(SOURCE_TYPES), st.none() | st.integers(-3000, 3000))
@settings(deadline=None)
def test_scores_stay_in_bounds(text: str, source_type: str, year: int | None) -> None:
    score = score_document(text, source_type, year)
    assert 0.0 <= score.auth_weight <= 0.99
    assert 0.0 <= score.prov_entropy <= 10.0
    assert 0.0 <= score.components.weight_text <= 1.0
