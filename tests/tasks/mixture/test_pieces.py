from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.mixture.pieces import compose_samples, cut_pieces, outline_samples
from tasks.mixture.prompts import split_turns

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
    assert samples[1].text.startswith("User: Continue the text on Title, part 2.\n\nAssistant: word")
    assert compose_samples(None, "   ") == []


def test_a_text_in_the_chat_format_keeps_its_prompt() -> None:
    text = "User: Why?\n\nAssistant: Because."
    assert [sample.text for sample in compose_samples("Title", text)] == [text]
    long = "User: Why?\n\nAssistant: " + "word " * 100
    samples = compose_samples(None, long, piece_chars=200, max_pieces=2)
    assert samples[0].text.startswith("User: Why?\n\nAssistant: word")
    assert samples[1].text.startswith("User: Continue the text on Why?, part 2.\n\nAssistant: word")


@settings(deadline=None)
@given(st.one_of(st.none(), st.sampled_from(["", " ", "Title", "Why?"])), TEXTS, st.booleans())
def test_the_numbers_of_the_samples_are_known_without_them(title: str | None, text: str, chat: bool) -> None:
    text = f"User: x\n\nAssistant: {text}" if chat else text
    composed = compose_samples(title, text, 60, 4)
    outline = outline_samples(title, text, 60, 4)
    assert outline.parts == tuple(sample.part for sample in composed)
    response = (split_turns(text) or ("", text))[1].strip()
    assert outline.left_out == len(response) - sum(map(len, cut_pieces(response, 60, 4)))
