"""Mixtures of a part of the corpus: some sources, a range of authority, a period."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from storage.errors import MixtureError, ParameterError
from tasks.mixture.parameters import MixtureParameters
from tests.tasks.mixture.corpora import balanced_sources
from tests.tasks.mixture.test_build import PARAMETERS, build, rows_of


def test_a_filter_that_empties_a_band_is_explained(tmp_path: Path) -> None:
    with pytest.raises(MixtureError, match=r"no medium and no high-authority samples.*patents \(\d+ low, 0 medium"):
        build(tmp_path, balanced_sources(), MixtureParameters(filter_source=["patent"]))
    with pytest.raises(ParameterError, match=r"'diaries', which is no source of this corpus.*novels"):
        build(tmp_path, balanced_sources(), MixtureParameters(filter_source=["diaries"]))


def test_reversed_ranges_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"min_authority is 0\.5, above max_authority 0\.2"):
        MixtureParameters(min_authority=0.5, max_authority=0.2)
    with pytest.raises(ValidationError, match="first_year is 1950, after last_year 1900"):
        MixtureParameters(first_year=1950, last_year=1900)
    assert MixtureParameters(first_year=1900, last_year=1900).focus == "first_year=1900, last_year=1900"
    assert MixtureParameters().focus == ""


def test_documents_outside_the_focus_are_left_out_and_counted(tmp_path: Path) -> None:
    focus = {"max_authority": 0.6, "first_year": 1890, "last_year": 2016, "accept_imbalance": True}
    sources = balanced_sources()
    sources["patents"].append(replace(sources["patents"][0], id="patents:undated", text="Undated words.", year=None))
    folder, _ = build(tmp_path, sources, PARAMETERS.model_copy(update=focus))
    rows = rows_of(folder, "train") + rows_of(folder, "valid")
    assert {row["source"] for row in rows} == {"patents", "novels", "preprints"}
    assert "patents:undated" not in {row["doc_id"] for row in rows}
    metadata = json.loads((folder / "metadata.json").read_text("utf-8"))
    assert metadata["documents"]["outside_focus"] == 131
    assert metadata["documents"]["read"] == 341


def test_a_shard_of_rejects_alone_is_in_no_period(tmp_path: Path) -> None:
    sources = balanced_sources() | {"torn": []}
    focus = {"first_year": 1890, "last_year": 2023}
    folder, _ = build(tmp_path, sources, PARAMETERS.model_copy(update=focus))
    assert json.loads((folder / "metadata.json").read_text("utf-8"))["documents"]["read"] == 340


def test_a_focus_that_leaves_too_little_is_named(tmp_path: Path) -> None:
    sources = balanced_sources()
    with pytest.raises(MixtureError, match=r"asked for \(max_authority=0.2\) holds no medium and no high") as error:
        build(tmp_path, sources, MixtureParameters(max_authority=0.2))
    assert "download" not in str(error.value)
    assert "220 of 340 documents lie outside max_authority=0.2. Samples by source" in str(error.value)
    with pytest.raises(MixtureError, match=r"\(first_year=2100\) holds 0 samples, .* needs two at least"):
        build(tmp_path, sources, MixtureParameters(first_year=2100, accept_imbalance=True))


def test_one_source_of_many_can_be_drawn_from(tmp_path: Path) -> None:
    sources = balanced_sources()
    folder, _ = build(tmp_path, sources, MixtureParameters(filter_source=["patents", "pre", "encyclo"]))
    metadata = json.loads((folder / "metadata.json").read_text("utf-8"))
    assert set(metadata["sources"]) == {"patents", "preprints", "encyclopedia"}
    assert metadata["documents"]["read"] == 340 - len(sources["novels"])
    assert {row["source"] for row in rows_of(folder, "train")} == {"patents", "preprints", "encyclopedia"}
