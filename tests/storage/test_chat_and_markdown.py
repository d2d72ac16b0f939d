from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.chat import format_prompt, format_sample, split_sample
from storage.markdown import table

LINE = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).map(str.strip).filter(bool)


@given(LINE, LINE)
def test_a_sample_comes_apart_into_what_it_was_made_of(prompt: str, response: str) -> None:
    if "\n\nAssistant:" not in prompt:
        assert split_sample(format_sample(prompt, response)) == (prompt, response)
        assert format_sample(prompt, response).startswith(format_prompt(prompt))


@pytest.mark.parametrize("text", ["", "Assistant: yes", "User: a\n\nassistant: b", "User: \n\nAssistant: b"])
def test_a_text_of_another_form_is_no_sample(text: str) -> None:
    assert split_sample(text) is None


def test_a_cell_cannot_break_its_table() -> None:
    assert table(["name", "bytes"], [("a|b\n| c <img> `x` \\|", 7)], right=["bytes"]).splitlines() == [
        "| name | bytes |",
        "| --- | ---: |",
        "| a\\|b \\| c &lt;img> 'x' \\\\\\| | 7 |",
    ]
