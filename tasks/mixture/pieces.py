"""Cutting a document into pieces, and pieces into prompts and responses."""

from __future__ import annotations

import re
from typing import NamedTuple

from tasks.mixture.prompts import Kind, format_sample, prompt_and_response, split_turns

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
    text: str


class Outline(NamedTuple):
    """The numbers of a document's samples, and how many characters of it are left out behind the last one."""

    parts: tuple[int, ...]
    left_out: int


_ONE_SAMPLE, _NO_SAMPLE = Outline((0,), 0), Outline((), 0)


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


def compose_samples(
    title: str | None, text: str, piece_chars: int = 3000, max_pieces: int = 8, kind: Kind | None = None
) -> list[Sample]:
    """Make the samples of a document; a piece with nothing to answer (blanks, or one untitled word) makes none.

    A text that is in the chat format already keeps its prompt: its response alone is cut.

    Args:
        title: The document's title, which the prompts are made of.
        text: The document.
        piece_chars: Longest piece, in characters.
        max_pieces: Most pieces.
        kind: Source type and trivium for prompts by source; none: neutral prompts.
    """
    turns = split_turns(text)
    prompt, response = turns or (None, text)
    samples = []
    for part, piece in enumerate(cut_pieces(response.strip(), piece_chars, max_pieces)):
        if prompt is not None and part == 0:
            samples.append(Sample(part, format_sample(prompt, piece.strip())))
        elif pair := prompt_and_response(prompt or title, piece, part, kind):
            samples.append(Sample(part, format_sample(*pair)))
    return samples


def outline_samples(title: str | None, text: str, piece_chars: int = 3000, max_pieces: int = 8) -> Outline:
    """Number the samples that `compose_samples` makes, without composing those of a titled text."""
    turns = split_turns(text)
    response = (turns[1] if turns else text).strip()
    is_plain = title and not title.isspace() and not turns
    if is_plain and len(response) <= piece_chars:  # of a million documents most are short
        return _ONE_SAMPLE if response else _NO_SAMPLE
    pieces = cut_pieces(response, piece_chars, max_pieces)
    left_out = len(response) - sum(map(len, pieces))
    if is_plain:
        return Outline(tuple(part for part, piece in enumerate(pieces) if not piece.isspace()), left_out)
    composed = compose_samples(title, text, piece_chars, max_pieces)
    return Outline(tuple(sample.part for sample in composed), left_out)


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
            return ends[-1]
    return max(latest, earliest)
