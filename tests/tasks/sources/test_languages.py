from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import ParameterError
from tasks.sources.catalogue import load_catalogue
from tasks.sources.languages import language_code
from tests.tasks.sources.conftest import make_spec


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("eng", "en"),
        ("en", "en"),
        ("English", "en"),
        (" ENGLISH ", "en"),
        ("eng.", "en"),
        ("[eng]", "en"),
        ("en-US", "en"),
        ("en_GB", "en"),
        (["eng"], "en"),
        (["eng", "English"], "en"),
        ("eng; en", "en"),
        (["eng", "fre"], None),
        ("eng;lat", None),
        ("ger", "de"),
        ("deu", "de"),
        ("Français", "fr"),
        ("Klingon", "klingon"),
        ("haw", "haw"),
        ("und", None),
        ("", None),
        ("?", None),
        (None, None),
        (7, None),
        ([], None),
    ],
)
def test_a_language_has_one_code(value: Any, code: str | None) -> None:
    assert language_code(value) == code


@given(st.text(max_size=30))
def test_a_code_is_its_own_code(value: str) -> None:
    code = language_code(value)
    assert code is None or language_code(code) == code


@pytest.mark.parametrize(
    ("language", "reason"),
    [("English", None), ("eng", None), ("lat.", None), ("fre", "other-language"), (None, None), ("eng; fre", None)],
)
def test_the_language_filter_keeps_what_names_no_language(language: str | None, reason: str | None) -> None:
    spec = make_spec(languages=["eng", "Latin", "en"])
    assert spec.languages == ("en", "la")
    assert spec.outside_languages(language) == reason
    assert spec.model_copy(update={"languages": ()}).outside_languages(language) is None


def test_a_language_that_names_nothing_is_refused(tmp_path: Any) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('[wikipedia]\nlanguages = ["und"]\n', "utf-8")
    with pytest.raises(ParameterError, match=r"\[wikipedia\] languages: 'und' names no language"):
        load_catalogue(file)
