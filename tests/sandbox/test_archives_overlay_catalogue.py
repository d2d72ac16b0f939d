"""The catalogue that leads the project's sources to the sandbox, as the real loader reads it."""

from __future__ import annotations

import tomllib
from datetime import date
from pathlib import Path

from sandbox.archives import SandboxDocument, summarise, write_catalogue
from sandbox.archives.documents import ARCHIVE_OF
from sandbox.archives.hub_rows import REPOSITORIES
from storage.toml import toml_value
from tasks.sources.catalogue import load_catalogue

DOCUMENTS = [
    SandboxDocument(source="classical_philosophy", native_id="a", text="t", year=-380),
    SandboxDocument(source="historical_newspapers", native_id="b", text="t", date="1880-05-05"),
    SandboxDocument(source="historical_newspapers", native_id="c", text="t", date="1902-05-05"),
    SandboxDocument(source="wikipedia", native_id="d", text="t"),
    SandboxDocument(source="government_documents", native_id="e", text="t", year=1977),
    SandboxDocument(source="us_patents", native_id="f", text="t", year=1980),
]


def test_the_catalogue_knows_the_same_sources_at_the_same_archives() -> None:
    catalogue = load_catalogue()
    archives = {name: spec.archive for name, spec in catalogue.items()}
    assert {name: archives[name] for name in ARCHIVE_OF} == ARCHIVE_OF
    assert all(catalogue[name].optional for name in archives.keys() - ARCHIVE_OF.keys())
    for name, repository in REPOSITORIES.items():
        spec = catalogue[name]
        assert (spec.repo, spec.config, spec.split) == (repository.repo, repository.config, repository.split)


def test_served_sources_are_pinned_and_the_others_become_optional(tmp_path: Path) -> None:
    path = tmp_path / "sandbox.toml"
    write_catalogue(path, summarise(DOCUMENTS))
    catalogue, bundled, summaries = load_catalogue(path), load_catalogue(), summarise(DOCUMENTS)
    assert {name for name, spec in catalogue.items() if not spec.optional} == set(summaries)
    for name, summary in summaries.items():
        assert catalogue[name].target == summary.documents
        assert summary.digest in catalogue[name].snapshot
    assert catalogue["classical_philosophy"].query == "collection:sandbox_classical_philosophy"
    assert catalogue["wikipedia"].revision == summaries["wikipedia"].revision
    assert catalogue["wikipedia"].columns.part_of == "part_of"
    newspapers = catalogue["historical_newspapers"]
    assert (newspapers.date_from, newspapers.date_to) == (date(1880, 5, 5), date(1902, 5, 5))
    government, patents = catalogue["government_documents"].year_filter, catalogue["us_patents"].year_filter
    assert government is not None
    assert government.min == 1977, "the user's own documents count"
    assert patents == bundled["us_patents"].year_filter, "no document gets a label that its year contradicts"
    for name, spec in catalogue.items():
        assert spec.source_type == bundled[name].source_type


def test_other_documents_make_another_plan(tmp_path: Path) -> None:
    first, second = tmp_path / "1.toml", tmp_path / "2.toml"
    write_catalogue(first, summarise(DOCUMENTS))
    write_catalogue(second, summarise([*DOCUMENTS[:3], DOCUMENTS[3].model_copy(update={"text": "changed"})]))
    assert load_catalogue(first)["wikipedia"].snapshot != load_catalogue(second)["wikipedia"].snapshot
    assert load_catalogue(first)["historical_newspapers"] == load_catalogue(second)["historical_newspapers"]


def test_a_catalogue_of_the_users_own_is_kept(tmp_path: Path) -> None:
    base = tmp_path / "mine.toml"
    base.write_text(
        '[wikipedia]\ntrivium = "logic"\ncolumns = { extra = ["url", "no_such"] }\n'
        '[arxiv_preprints]\narchive = "local_files"\npath = "papers"\n'
        '[notes]\narchive = "local_files"\npath = "notes"\nsource_type = "lab_notebook"\ntrivium = "logic"\n'
    )
    path = tmp_path / "sandbox.toml"
    write_catalogue(path, summarise(DOCUMENTS), base)
    catalogue = load_catalogue(path)
    assert catalogue["wikipedia"].trivium == "logic"
    assert catalogue["wikipedia"].columns.extra == ("url",)
    assert catalogue["arxiv_preprints"] == load_catalogue(base)["arxiv_preprints"]
    assert catalogue["notes"] == load_catalogue(base)["notes"]


def test_values_survive_toml() -> None:
    value = {
        "text": 'a "quoted"\nline\\ \x7f ü 𝄞 \t',
        "odd key.": [1, 2.5, True, ["x", {"deep": False}]],
        "day": date(1900, 1, 2),
        "empty": [],
    }
    assert tomllib.loads(f"value = {toml_value(value)}")["value"] == value
