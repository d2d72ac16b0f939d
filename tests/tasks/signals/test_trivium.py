from __future__ import annotations

from storage.vocabulary import SOURCE_TYPES, TRIVIA
from tasks.signals.reference import score_document
from tasks.signals.trivium import TRIVIUM_OF


def test_every_source_type_has_a_category() -> None:
    assert tuple(TRIVIUM_OF) == SOURCE_TYPES
    assert set(TRIVIUM_OF.values()) == set(TRIVIA)


def test_the_guides_assignments() -> None:
    assert [TRIVIUM_OF[name] for name in ("wiki", "classical_rhetoric")] == ["grammar"] * 2
    assert [TRIVIUM_OF[name] for name in ("patent_pre1970", "classical_philosophy", "preprint")] == ["logic"] * 3
    assert [TRIVIUM_OF[name] for name in ("classical_literature", "historical_newspaper")] == ["rhetoric"] * 2


def test_the_catalogues_category_wins() -> None:
    assert score_document("x", "wiki").trivium_category == "grammar"
    assert score_document("x", "wiki", trivium="").trivium_category == "grammar"
    assert score_document("x", "wiki", trivium="logic").trivium_category == "logic"


def test_a_conflict_keeps_the_sources_category() -> None:
    score = score_document("x", "classical_philosophy", 1990)
    assert score.components.source_type == "unknown"
    assert score.trivium_category == "logic"
