from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from tasks.signals.engine import score_table
from tasks.signals.overlay import find_fault, lay_over, split_overrides
from tests.tasks.signals.raw_documents import raw_table


def test_scores_that_a_document_brings_are_kept() -> None:
    extras = [
        {"auth_weight": 0.85, "prov_entropy": 1.5, "trivium_category": "grammar", "part_of": "x"},
        {"auth_weight": 0.2},
        {"part_of": "the auth_weight of things"},
    ]
    scored = score_table(raw_table(["I measured it."] * 3, extras=extras)).to_pylist()
    computed = score_table(raw_table(["I measured it."])).to_pylist()[0]
    first, second, third = scored
    assert (first["auth_weight"], first["prov_entropy"]) == (pytest.approx(0.85), pytest.approx(1.5))
    assert (first["trivium_category"], first["band"]) == ("grammar", "high")
    assert first["components"]["overrides"] == "given with the document: auth_weight, prov_entropy, trivium_category"
    assert (second["auth_weight"], second["prov_entropy"]) == (pytest.approx(0.2), computed["prov_entropy"])
    assert second["components"]["overrides"] == "given with the document: auth_weight"
    assert third | {"id": computed["id"]} == computed


def test_scores_in_float32_are_scores() -> None:
    for value in (np.float32(0.99), float(np.float32(0.99)), np.float16(0.5), np.int64(0), Fraction(1, 3)):
        assert find_fault("auth_weight", value) is None
    for value in (0.9901, np.float32(0.991), np.float16(0.99), np.float32("nan"), 10**400):
        assert find_fault("auth_weight", value) == "it must lie from 0 to 0.99"
    assert find_fault("auth_weight", np.bool_(True)) == "it must be a number from 0 to 0.99"
    stored = score_table(raw_table([""], extras=[{"auth_weight": float(np.float32(0.99))}]))
    assert stored.column("auth_weight").to_pylist() == [float(np.float32(0.99))]


def test_a_note_keeps_apart_what_was_laid_over_and_what_was_refused() -> None:
    extras = [{"auth_weight": 0.2, "prov_entropy": 11}, {"prov_entropy": 11}, {}]
    scored = score_table(raw_table([""] * 3, extras=extras))
    both = lay_over(scored, {"trivium_category": ["logic", "logic", None]}, "signal mine:score")
    notes = [split_overrides(why["overrides"]) for why in both.column("components").to_pylist()]
    fault = "prov_entropy 11: it must lie from 0 to 10.0"
    assert notes == [
        ("given with the document: auth_weight; signal mine:score: trivium_category", fault),
        ("signal mine:score: trivium_category", fault),
        ("", ""),
    ]


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ({"auth_weight": 1.0}, "auth_weight 1.0: it must lie from 0 to 0.99"),
        ({"auth_weight": "high"}, "auth_weight 'high': it must be a number"),
        ({"auth_weight": True}, "auth_weight True: it must be a number"),
        ({"prov_entropy": -0.1}, "prov_entropy -0.1: it must lie from 0 to 10"),
        ({"prov_entropy": float("nan")}, "prov_entropy nan: it must lie"),
        ({"trivium_category": "music"}, "trivium_category 'music': it must be one of grammar"),
    ],
)
def test_what_is_no_score_is_refused_and_told(extra: dict[str, object], reason: str) -> None:
    scored = score_table(raw_table(["I measured it."], extras=[extra])).to_pylist()[0]
    computed = score_table(raw_table(["I measured it."])).to_pylist()[0]
    assert scored["components"]["overrides"].startswith(f"refused {reason}")
    scored["components"]["overrides"] = ""
    assert scored == computed


def test_bands_of_given_scores_are_those_of_the_stored_number() -> None:
    extras = [{"auth_weight": value} for value in (0.0, 0.2999, 0.3, 0.7, 0.70001, 0.99)]
    bands = score_table(raw_table([""] * 6, extras=extras)).column("band").to_pylist()
    assert bands == ["low", "low", "medium", "medium", "high", "high"]
