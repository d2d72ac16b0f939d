"""Cutting a document into pieces, and pieces into prompts and responses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from storage.chat import escape_control, split_sample
from storage.text import grapheme_start
from tasks.mixture.prompts import Kind, continuation_prompt, prompt_and_response, prompt_for, title_subject

_BOUNDARIES = (
    re.compile(r"\n[^\S\n]*\n\s*"),
    re.compile("[.!?][\"')\\]\u201d\u2019]*\\s+"),
    re.compile(r"\s+"),
)
"""Ends of paragraphs, of sentences and of words: the best boundary first."""

_SHORTEST_SHARE = 0.4
"""A piece is at least this share of what is left or of the limit, so that no document ends in a scrap."""


class Sample(NamedTuple):
    """One piece of a document as it is trained on; `part` counts from 0."""

    part: int
    prompt: str
    response: str


class Outline(NamedTuple):
    """The numbers of a document's samples, the characters left out behind the last one, and all its pieces."""

    parts: tuple[int, ...]
    left_out: int
    pieces: list[str]


def cut_pieces(text: str, piece_chars: int = 3000, max_pieces: int = 8) -> list[str]:
    """Cut a text on paragraph, else sentence, else word boundaries.

    Every piece keeps the blanks behind it, so the pieces joined are the text, or its beginning where
    `max_pieces` was reached.

    Args:
        text: The document.
        piece_chars: Longest piece, in characters.
        max_pieces: Most pieces; the rest of a longer document is left out.
    """
    pieces: list[str] = []
    start = 0
    while start < len(text) and len(pieces) < max_pieces:
        end = _piece_end(text, start, piece_chars)
        pieces.append(text[start:end])
        start = end
    return pieces


_NO_SUBJECTS: Mapping[int, str] = MappingProxyType({})


def compose_samples(
    title: str | None,
    text: str,
    piece_chars: int = 3000,
    max_pieces: int = 8,
    kind: Kind | None = None,
    subjects: Mapping[int, str] = _NO_SUBJECTS,
) -> list[Sample]:
    """Make the samples of a document; a piece with nothing to answer (blanks, or one untitled word) makes none.

    The first piece answers a prompt made of the title, a later one continues the words that stand in its prompt, and a
    piece with a subject answers a prompt about that. A text that is a conversation in the chat layout keeps its own
    prompt. Anywhere else role markers and special tokens are text.

    Args:
        title: The document's title.
        text: The document.
        piece_chars: Longest piece, in characters.
        max_pieces: Most pieces.
        kind: Source type and trivium for prompts by source; None for neutral prompts.
        subjects: What some of the pieces share with pieces of the other band.
    """
    turns = split_sample(text)
    prompt, response = turns or (None, text)
    response = escape_control(response.strip(), roles=turns is None)
    if len(response) <= piece_chars and not subjects and prompt is None:  # of a million documents most are short
        pair = prompt_and_response(title, response, kind)
        return [Sample(0, escape_control(pair[0], roles=False), pair[1])] if pair else []
    samples, start = [], 0
    for part, piece in enumerate(cut_pieces(response, piece_chars, max_pieces)):
        before, start = start, start + len(piece)
        if piece.isspace():
            continue
        if part in subjects:
            asked = prompt_for(subjects[part])
        elif part == 0 and prompt is None:
            pair = prompt_and_response(title, piece, kind)
            if pair:
                samples.append(Sample(part, escape_control(pair[0], roles=False), pair[1]))
            continue
        else:
            asked = prompt if part == 0 else continuation_prompt(response[:before])
        samples.append(Sample(part, escape_control(str(asked), roles=False), piece.strip()))
    return samples


def outline_samples(title: str | None, text: str, piece_chars: int = 3000, max_pieces: int = 8) -> Outline:
    """Number the samples that `compose_samples` makes, without composing those of a titled text."""
    turns = split_sample(text)
    response = escape_control((turns[1] if turns else text).strip(), roles=turns is None)
    answers = turns is not None or title_subject(title) is not None
    if answers and 0 < len(response) <= piece_chars:
        return Outline((0,), 0, [response])
    pieces = cut_pieces(response, piece_chars, max_pieces)
    left_out = len(response) - sum(map(len, pieces))
    parts = [part for part, piece in enumerate(pieces) if not piece.isspace()]
    if parts[:1] == [0] and not answers and prompt_and_response(None, pieces[0]) is None:
        parts = parts[1:]
    return Outline(tuple(parts), left_out, pieces)


def _piece_end(text: str, start: int, piece_chars: int) -> int:
    left = len(text) - start
    if left <= piece_chars:
        return len(text)
    # Two pieces' worth of text is halved rather than cut into a full piece and a scrap.
    basis = left if left <= 2 * piece_chars else piece_chars
    latest = start + min(piece_chars, int(left * (1 - _SHORTEST_SHARE)))
    earliest = start + max(1, int(basis * _SHORTEST_SHARE))
    for boundary in _BOUNDARIES:
        ends = [match.end() for match in boundary.finditer(text, earliest, latest)]
        if ends:
            return grapheme_start(text, ends[-1], start + 1)
    return grapheme_start(text, max(latest, earliest), start + 1)
