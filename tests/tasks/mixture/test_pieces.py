from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.chat import split_sample
from tasks.mixture.pieces import compose_samples, cut_pieces, outline_samples

TEXTS = st.text(alphabet="ab .!?\n\té—\u201d", max_size=1500)


@settings(deadline=None)
@given(TEXTS, st.integers(20, 300))
def test_pieces_joined_are_the_text(text: str, piece_chars: int) -> None:
    pieces = cut_pieces(text, piece_chars, max_pieces=10_000)
    assert "".join(pieces) == text
    assert all(0 < len(piece) <= piece_chars for piece in pieces)


@settings(deadline=None)
@given(TEXTS, st.integers(20, 300), st.integers(1, 5))
def test_fewer_pieces_are_the_first_ones(text: str, piece_chars: int, most: int) -> None:
    assert cut_pieces(text, piece_chars, most) == cut_pieces(text, piece_chars, 10_000)[:most]


def test_paragraphs_come_before_sentences_and_sentences_before_words() -> None:
    paragraphs = "A b c. D e f.\n\n" * 20
    assert all(piece.endswith("\n\n") for piece in cut_pieces(paragraphs, 100, 50)[:-1])
    sentences = "Alpha beta gamma. " * 40
    assert all(piece.endswith(". ") for piece in cut_pieces(sentences, 100, 50))
    words = "alpha beta gamma " * 40
    assert all(piece.endswith(" ") for piece in cut_pieces(words, 100, 50))


def test_a_text_just_over_one_piece_is_halved() -> None:
    sizes = [len(piece) for piece in cut_pieces("word " * 205, 1000)]
    assert len(sizes) == 2 and min(sizes) > 400


def test_samples_number_their_parts_and_skip_empty_ones() -> None:
    samples = compose_samples("Title", "word " * 100, piece_chars=200, max_pieces=2)
    assert [sample.part for sample in samples] == [0, 1]
    assert samples[1].prompt == "Continue this text: " + " ".join(["word"] * 40)
    assert samples[1].response.startswith("word")
    assert compose_samples(None, "   ") == []


def test_a_text_in_the_chat_format_keeps_its_prompt() -> None:
    text = "User: Why?\n\nAssistant: Because."
    assert [(s.prompt, s.response) for s in compose_samples("Title", text)] == [("Why?", "Because.")]
    long = "User: Why?\n\nAssistant: " + "word " * 100
    samples = compose_samples(None, long, piece_chars=200, max_pieces=2)
    assert samples[0].prompt == "Why?"
    assert samples[1].prompt.startswith("Continue this text: word")


def test_a_piece_with_a_subject_is_asked_about_it() -> None:
    samples = compose_samples("Title", "word " * 100, piece_chars=200, subjects={1: "comets and tails"})
    assert "Title" in samples[0].prompt and "comets and tails" in samples[1].prompt
    assert samples[2].prompt.startswith("Continue this text: word")


FAMILY, FLAG, ACCENTED = "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f1eb\U0001f1f7", "e\u0323\u0301"


@pytest.mark.parametrize("grapheme", [FAMILY, FLAG, ACCENTED, "\u1112\u1161\u11ab", "\U0001f44d\U0001f3fd"])
@pytest.mark.parametrize("size", [20, 21, 22, 23, 24, 25])
def test_no_cut_falls_inside_a_character(grapheme: str, size: int) -> None:
    text = grapheme * 60
    pieces = cut_pieces(text, size, 1000)
    assert "".join(pieces) == text and len(pieces) > 2
    assert all(piece == grapheme * (len(piece) // len(grapheme)) for piece in pieces)


def test_role_markers_and_special_tokens_of_a_document_are_text() -> None:
    text = "He wrote:\n\nUser: hello\n\nAssistant: hi<|im_end|>\n<|im_start|>system <eos> [INST] </s> 3 < 4 [12]"
    (sample,) = compose_samples("A <|im_start|> title", text)
    assert "\n\nUser:" not in sample.response and "\n\nAssistant:" not in sample.response
    for token in ("<|im_end|>", "<|im_start|>", "<eos>", "[INST]", "</s>"):
        assert token not in sample.response + sample.prompt
    assert "User: hello" in sample.response and "< |im_end|>" in sample.response and "3 < 4 [12]" in sample.response
    (turns,) = compose_samples(None, "User: a\n\nAssistant: b <eos>\n\nUser: c\n\nAssistant: d")
    assert turns.response == "b < eos>\n\nUser: c\n\nAssistant: d", "the turns of a conversation stay"


@settings(deadline=None)
@given(st.one_of(st.none(), st.sampled_from(["", " ", "Title", "Why?"])), TEXTS, st.booleans())
def test_the_numbers_of_the_samples_are_known_without_them(title: str | None, text: str, chat: bool) -> None:
    text = f"User: x\n\nAssistant: {text}" if chat else text
    composed = compose_samples(title, text, 60, 4)
    outline = outline_samples(title, text, 60, 4)
    assert outline.parts == tuple(sample.part for sample in composed)
    response = (split_sample(text) or ("", text))[1].strip()
    assert outline.left_out == len(response) - sum(map(len, cut_pieces(response, 60, 4)))
