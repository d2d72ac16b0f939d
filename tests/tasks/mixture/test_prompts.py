from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.vocabulary import SOURCE_TYPES, TRIVIA
from tasks.mixture.prompts import (
    CONTEXT_CHARS,
    LEADS,
    TEMPLATES,
    TITLE_CHARS,
    VOICES,
    continuation_prompt,
    prompt_and_response,
    prompt_for,
)


def test_a_question_is_its_own_prompt() -> None:
    assert prompt_for("What  is\nheat?") == "What is heat?"


def test_titles_that_differ_in_case_and_blanks_choose_the_same_template() -> None:
    one, other = prompt_for("Isaac Newton"), prompt_for(" ISAAC   NEWTON ")
    assert one is not None and other is not None
    assert one.casefold() == other.casefold()


def test_every_template_is_used() -> None:
    shapes = {(prompt_for(f"Title {i}a") or "").replace(f"Title {i}a", "{title}") for i in range(60)}
    assert shapes == set(TEMPLATES)


@pytest.mark.parametrize("title", [None, "", " \n "])
def test_no_title_has_no_prompt(title: str | None) -> None:
    assert prompt_for(title) is None


def test_a_long_title_is_cut_before_a_word() -> None:
    title = " ".join(["word"] * 24)
    assert prompt_for("word " * 60) in [template.format(title=title) for template in TEMPLATES]


@pytest.mark.parametrize(
    "title",
    [
        "The Lorne Evening Star, 1897-04-09",
        "Goodwin's weekly. (Salt Lake City, Utah), 1916-11-25, p. 1",
        "PMC1149498",
        "Battle of <unk>",
        "Vol. II",
        "Preface",
        "Chapter 12",
        "Notes and Index 3",
    ],
)
def test_a_title_that_says_nothing_about_the_text_asks_nothing(title: str) -> None:
    assert prompt_for(title) is None
    pair = prompt_and_response(title, "A meteor was seen over Ollerby. It had a tail.")
    assert pair == ("Continue this text: A meteor was seen over Ollerby.", "It had a tail.")


@pytest.mark.parametrize(
    "title", ["Daniel Bernoulli", "State of the Union address 1965", "Notes on the eclipse of 1842"]
)
def test_other_titles_ask(title: str) -> None:
    assert title in str(prompt_for(title))


def test_a_continuation_begins_where_a_sentence_does() -> None:
    before = "Nothing of this is shown. " * 20 + "The comet came back in May. It was seen by three keepers at once, and"
    prompt = continuation_prompt(before)
    assert prompt.endswith("It was seen by three keepers at once, and")
    assert prompt.startswith("Continue this text: Nothing of this is shown.")
    assert len(prompt) <= CONTEXT_CHARS + len("Continue this text: ")


def test_a_text_without_title_is_continued_after_its_first_sentence() -> None:
    pair = prompt_and_response(None, "The quick brown fox jumped. It was red. It ran.")
    assert pair == ("Continue this text: The quick brown fox jumped.", "It was red. It ran.")


def test_a_single_sentence_without_title_is_continued_from_its_middle() -> None:
    assert prompt_and_response(None, "one two three four") == ("Continue this text: one two", "three four")


@pytest.mark.parametrize(("title", "text"), [(None, "word"), (None, "  "), ("Title", " \n")])
def test_nothing_to_answer_makes_no_pair(title: str | None, text: str) -> None:
    assert prompt_and_response(title, text) is None


@settings(deadline=None)
@given(st.text(max_size=400), st.one_of(st.none(), st.text(max_size=200)))
def test_no_word_of_the_text_is_lost(text: str, title: str | None) -> None:
    pair = prompt_and_response(title, text)
    if pair is None:
        return
    prompt, response = pair
    assert response == response.strip() != ""
    if prompt_for(title) is None:
        opening = prompt.removeprefix("Continue this text: ")
        assert len(opening) <= TITLE_CHARS
        assert "".join((opening + response).split()) == "".join(text.split())
    else:
        assert response == text.strip()


def test_prompts_by_source_cover_every_kind_with_several_templates() -> None:
    assert set(VOICES) == set(SOURCE_TYPES) and set(LEADS) == set(TRIVIA)
    for source_type in SOURCE_TYPES:
        for trivium in TRIVIA:
            prompts = {str(prompt_for(f"Title {i}a", (source_type, trivium))) for i in range(80)}
            shapes = {prompt.replace(re.findall(r"Title \d+a", prompt)[0], "{title}") for prompt in prompts}
            assert len(shapes) == len(LEADS[trivium]) * len(VOICES[source_type])
