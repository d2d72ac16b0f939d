"""Voice-neutral prompts: what a sample asks depends on its document's title alone.

A primary and a modern document under the same title thus answer the same question; that conflict is what the
training objective acts on.
"""

from __future__ import annotations

import re
from hashlib import blake2b

TITLE_CHARS = 120
"""Longest title or opening sentence in a prompt; anything longer is cut on a word boundary."""

TEMPLATES = (
    "What is known about {title}?",
    "Tell me about {title}.",
    "What do the records say about {title}?",
    "What should one know about {title}?",
)
CONTINUE_PART = "Continue the text on {title}, part {number}."
CONTINUE_TEXT = "Continue this text: {opening}"

_OPENING_MIN_CHARS = 20
_SENTENCE_END = re.compile("[.!?][\"')\\]\u201d\u2019]*(?=\\s)")


def prompt_for(title: str | None, part: int = 0) -> str | None:
    """Return the prompt for a piece of a document; none if the document has no title.

    Args:
        title: The document's title; a title that ends with a question mark is the prompt of part 0 itself.
        part: Which piece of the document answers, from 0.
    """
    collapsed = " ".join((title or "").split())
    if not collapsed:
        return None
    if part == 0 and collapsed.endswith("?"):
        return collapsed
    short = _cut(collapsed)
    if part > 0:
        return CONTINUE_PART.format(title=short, number=part + 1)
    choice = int.from_bytes(blake2b(short.casefold().encode(), digest_size=8).digest(), "big") % len(TEMPLATES)
    return TEMPLATES[choice].format(title=short)


def prompt_and_response(title: str | None, text: str, part: int = 0) -> tuple[str, str] | None:
    """Turn a piece of a document into a prompt and its response.

    Without a title the piece's first sentence (at most `TITLE_CHARS` characters) goes into the prompt and the
    rest is the response.

    Returns:
        The pair, or none if nothing is left to answer with (an empty text, or one word without a title).
    """
    response = text.strip()
    prompt = prompt_for(title, part)
    if prompt is not None:
        return (prompt, response) if response else None
    opening, rest = _split_opening(response)
    return (CONTINUE_TEXT.format(opening=opening), rest) if opening and rest else None


def format_sample(prompt: str, response: str) -> str:
    """Join a prompt and its response into the text that is trained on."""
    return f"User: {prompt}\n\nAssistant: {response}"


def _split_opening(text: str) -> tuple[str, str]:
    """Split a text after its first sentence; a text of one short sentence is split between its middle words."""
    end = _SENTENCE_END.search(text, _OPENING_MIN_CHARS, TITLE_CHARS + 1)
    cut = end.end() if end else len(_cut_raw(text))
    if not text[cut:].strip():
        words = list(re.finditer(r"\S+", text))
        cut = words[len(words) // 2].start() if len(words) > 1 else len(text)
    return " ".join(text[:cut].split()), text[cut:].strip()


def _cut(text: str) -> str:
    return _cut_raw(text).rstrip()


def _cut_raw(text: str) -> str:
    """Cut to `TITLE_CHARS` characters before a blank; a single longer word is cut within."""
    if len(text) <= TITLE_CHARS:
        return text
    head = text[: TITLE_CHARS + 1]
    boundary = max((match.start() for match in re.finditer(r"\s", head)), default=-1)
    return head[:boundary] if boundary > 0 else text[:TITLE_CHARS]
