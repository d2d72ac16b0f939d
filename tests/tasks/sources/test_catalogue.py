from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from storage.errors import ParameterError
from tasks.sources.catalogue import load_catalogue, named_sources
from tasks.sources.rows import map_row
from tasks.sources.source import Document
from tests.tasks.sources.conftest import make_spec


def write(path: Path, text: str) -> Path:
    file = path / "mine.toml"
    file.write_text(text, "utf-8")
    return file


def test_the_bundled_catalogue_is_complete() -> None:
    catalogue = load_catalogue()
    assert (len(catalogue), sum(spec.optional for spec in catalogue.values())) == (22, 10)
    assert sum(spec.target for spec in catalogue.values() if not spec.optional) == 204_000
    for spec in catalogue.values():
        assert spec.note
        assert spec.licence != "unknown"


def test_a_user_file_overrides_single_keys_and_adds_sources(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        """
        [wikipedia]
        repo = "me/wiki"
        columns = { year = "year", title = "" }
        [own]
        archive = "local_files"
        source_type = "lab_notebook"
        trivium = "logic"
        path = "notes"
        """,
    )
    catalogue = load_catalogue(file)
    wikipedia = catalogue["wikipedia"]
    assert (wikipedia.repo, wikipedia.config, wikipedia.target) == ("me/wiki", "20231101.simple", 35000)
    assert (wikipedia.columns.year, wikipedia.columns.title, wikipedia.columns.text) == ("year", "", "text")
    assert catalogue["own"].name == "own"
    assert len(catalogue) == len(load_catalogue()) + 1


def test_another_archive_forgets_the_keys_of_the_old_one(tmp_path: Path) -> None:
    spec = load_catalogue(write(tmp_path, '[wikipedia]\narchive = "local_files"\npath = "w"\n'))["wikipedia"]
    assert (spec.archive, spec.repo, spec.columns.title, spec.target) == ("local_files", "", "", 35000)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[wikipedia]\nrepository = "x"\n', r"\[wikipedia\] repository: unknown key"),
        ('[wikipedia]\ncolumns = { titel = "x" }\n', r"\[wikipedia\] columns.titel: unknown key"),
        ("[wikipedia]\ntarget = 0\n", r"\[wikipedia\] target: .*greater than or equal to 1, not 0"),
        ('[wikipedia]\nquery = "x"\n', r"\[wikipedia\] the keys \['query'\] do not belong to archive 'hugging_face'"),
        ('[wikipedia]\nrepo = "wikipedia"\n', "no namespace"),
        ('[own]\narchive = "local_files"\n', r"\[own\] source_type: Field required"),
        ('[own]\narchive = "ftp"\nsource_type = "wiki"\ntrivium = "logic"\n', r"\[own\] archive: .*not 'ftp'"),
        ('[own]\narchive = "local_files"\nsource_type = "wiki"\ntrivium = "logic"\n', r"needs the keys \['path'\]"),
        (
            '["../own"]\narchive = "local_files"\nsource_type = "wiki"\ntrivium = "logic"\npath = "p"\n',
            r"\[\.\./own\] name:",
        ),
        ("[historical_newspapers]\ndate_from = 1970-01-01\n", "date_from 1970-01-01 is after date_to"),
        ("[us_patents]\nyear_filter = { min = 1980 }\n", "min 1980 is after max 1969"),
        ("[wikipedia]\nmin_text_chars = 50000001\n", "exceeds max_text_chars"),
        ('repo = "x"\n', "outside a table"),
        ("[wikipedia\n", "is not TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        load_catalogue(write(tmp_path, text))


def test_all_wrong_entries_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ParameterError) as caught:
        load_catalogue(write(tmp_path, "[wikipedia]\ntarget = 0\nx = 1\n[big_patent]\ntarget = 'many'\n"))
    message = str(caught.value)
    assert "[wikipedia] target" in message
    assert "[wikipedia] x" in message
    assert "[big_patent] target" in message


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="cannot be read"):
        load_catalogue(tmp_path / "absent.toml")


@pytest.mark.parametrize(
    ("year", "unknown", "reason"),
    [
        (1899, "reject", "outside-years"),
        (1900, "reject", None),
        (1928, "reject", None),
        (1929, "reject", "outside-years"),
        (None, "reject", "missing-year"),
        (None, "keep", None),
    ],
)
def test_the_year_filter(year: int | None, unknown: str, reason: str | None) -> None:
    spec = make_spec(year_filter={"min": 1900, "max": 1928, "unknown": unknown})
    assert spec.outside_years(year) == reason
    assert spec.model_copy(update={"year_filter": None}).outside_years(year) is None


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("wikpedia", "did you mean 'wikipedia'?"),
        ("Wikipedia ", "did you mean 'wikipedia'?"),
        ("wiki", "did you mean 'wikipedia'?"),
        ("us-patents", "did you mean 'us_patents'?"),
        ("historical newspapers", "did you mean 'historical_newspapers'?"),
        ("books", "or 'books_before_1929'?"),
        ("xyzzy", "known: us_patents, "),
    ],
)
def test_a_source_that_is_not_there_is_answered_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(ParameterError) as caught:
        named_sources(load_catalogue(), ["wikipedia", name])
    told = str(caught.value)
    assert told.startswith(f"source {name!r} is not in the catalogue; ") and nearest in told
    assert "\n" not in told


def test_named_sources_come_once_and_in_order() -> None:
    catalogue = load_catalogue()
    chosen = named_sources(catalogue, ["wikipedia", "big_patent", "wikipedia"])
    assert [spec.name for spec in chosen] == ["wikipedia", "big_patent"]
    assert {spec.name for spec in named_sources(catalogue, [])} == {
        s.name for s in catalogue.values() if not s.optional
    }


def test_a_name_is_checked_without_loading_anything_heavy() -> None:
    code = (
        "import sys, tasks.sources.catalogue as c; c.named_sources(c.load_catalogue(), ['wikipedia'])\n"
        "print([name for name in ('prefect', 'datasets', 'mlx', 'pyarrow', 'aiohttp', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "row",
    [
        {"created": "1998-03-02", "metadata": {"title": "A Bill", "author": "Congress", "category": "BILLS"}},
        {
            "date": "1998-03-02",
            "title": "A Bill",
            "author": "Congress",
            "metadata": {"url": "https://www.govinfo.gov/x"},
        },
    ],
)
def test_government_publications_are_read_as_either_program_of_their_makers_wrote_them(row: dict[str, Any]) -> None:
    spec = load_catalogue()["government_publications"]
    document = map_row({"id": "BILLS-1", "text": "A bill to amend.", **row}, 0, spec, 2026)
    assert isinstance(document, Document)
    assert (document.title, document.author, document.year, document.date) == ("A Bill", "Congress", 1998, "1998-03-02")
