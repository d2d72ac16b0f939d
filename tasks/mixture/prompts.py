"""Prompts: what a sample asks before its document answers.

A neutral prompt is made of the document's title, or of the subject that a piece shares with pieces of the other band: a
primary and a modern document answer the same question, and that conflict is what the training objective acts on. No
neutral prompt names the kind of document, and none asks for a text that the model cannot see: a piece that has neither
a title nor a shared subject continues the words that stand in its prompt. Prompts by source name the kind of document,
as the guide's do. See docs/decisions/0010-prompts.md.
"""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import blake2b

from storage.text import grapheme_start
from storage.vocabulary import SourceType, Trivium

Kind = tuple[SourceType, Trivium]
"""What a prompt by source names: the document's source type and trivium category."""

TITLE_CHARS = 120
"""Longest title or opening sentence in a prompt; anything longer is cut on a word boundary."""
CONTEXT_CHARS = 240
"""Most of the text before a piece that stands in the prompt which the piece continues."""

TEMPLATES = (
    "What is known about {title}?",
    "Tell me about {title}.",
    "What do the records say about {title}?",
    "What should one know about {title}?",
)
LEADS: dict[Trivium, tuple[str, ...]] = {
    "grammar": ("Describe {title}", "Set out the facts of {title}", "Say what {title} is"),
    "logic": ("Explain {title}", "Reason through {title}", "Show how one arrives at {title}"),
    "rhetoric": ("Tell of {title}", "Make the case on {title}", "Give an account of {title}"),
}
"""How a prompt by source begins, by what the document exercises."""
VOICES: dict[SourceType, tuple[str, ...]] = {
    "patent_pre1970": ("as an inventor's patent of its time puts it", "in the words of the patent", "as claimed"),
    "patent_modern": ("as a modern patent puts it", "in the words of the patent", "as claimed"),
    "lab_notebook": ("as a laboratory notebook records it", "from one's own measurements", "as observed"),
    "notebook_modern": ("as a laboratory notebook records it", "from one's own measurements", "as observed"),
    "declaration": ("as sworn", "in the words of the witness", "as declared under oath"),
    "raw_data": ("as the data set describes it", "as it was recorded", "in the terms of those who measured"),
    "interview": ("as told in an interview", "in the words of the one who was asked", "as answered"),
    "classical_philosophy": ("as a classical philosopher would", "in the manner of the ancients", "philosophically"),
    "historical_book": ("as a book of its time does", "as an old author wrote of it", "as it was first printed"),
    "classical_literature": ("as classical literature does", "in an old author's prose", "as a novel of its time"),
    "classical_rhetoric": ("as in a speech", "as an orator of the time", "before an assembly"),
    "historical_newspaper": (
        "as a newspaper of the day reported it",
        "as it stood in the paper",
        "as news of its time",
    ),
    "preprint": ("as a preprint does", "as the authors report it", "in the manner of a research paper"),
    "logic_training": ("step by step", "as an exercise in reasoning", "by argument"),
    "academic_paper": ("as a scientific paper does", "as the authors report it", "in academic prose"),
    "news_modern": ("as modern news report it", "as a news summary", "as the media tell it"),
    "medical_guidelines": ("as medical guidance does", "as the guideline recommends", "for patients"),
    "wiki": ("as an encyclopedia does", "as a reference article", "in an encyclopedic tone"),
    "government": ("as the government states it", "as an official document", "as the agency announced it"),
    "unknown": ("as the source has it", "in the words of the document", "as it is written"),
}
"""How a prompt by source ends, by what kind of document answers."""
CONTINUE_TEXT = "Continue this text: {opening}"

_OPENING_MIN_CHARS = 20
_SENTENCE_END = re.compile("[.!?][\"')\\]\u201d\u2019]*(?=\\s)")
_HEADINGS = re.compile(
    r"\W*(?:(?:untitled|introduction|preface|contents|index|notes?|letters?|chapter|appendix|abstract|summary|conclusion"
    r"|speech|address|essay|poem|remarks|statement|talk|report|overview|unknown|document|text|part|book|volume|section|the|an?|and|\d+|[ivxlc]+)\W+)+",
    re.IGNORECASE,
)
_CATALOGUE_HINT = re.compile(r"[\d<@]|[Vv][Oo][Ll]")
"""Most titles have none of these, and are not searched for more."""
_CATALOGUE_ENTRY = re.compile(
    r"\b\d{4}-\d\d|\bp\. ?\d|\bno\. ?\d|\bvol(ume|\.)? ?[\divxlc]+\b|^[A-Za-z]{2,}[\d-]*\d$|<unk>|@-@", re.IGNORECASE
)


@lru_cache(1024)
def title_subject(title: str | None) -> str | None:
    """Return a title in single blanks if it says what its text is about; catalogue entries and headings do not."""
    collapsed = " ".join((title or "").split()).rstrip(" ,;:")
    if not collapsed or (_CATALOGUE_HINT.search(collapsed) and _CATALOGUE_ENTRY.search(collapsed)):
        return None
    return None if _HEADINGS.fullmatch(f"{collapsed} ") else collapsed


def prompt_for(title: str | None, kind: Kind | None = None) -> str | None:
    """Return the prompt that a title or subject makes; None if the title does not say what its text is about.

    Args:
        title: The title; one that ends with a question mark is the prompt itself.
        kind: What a prompt by source names; None for a neutral prompt.
    """
    subject = title_subject(title)
    if subject is None or subject.endswith("?"):
        return subject
    short = _cut(subject)
    choice = int.from_bytes(blake2b(short.casefold().encode(), digest_size=8).digest(), "big")
    if kind is None:
        return TEMPLATES[choice % len(TEMPLATES)].format(title=short)
    leads, voices = LEADS[kind[1]], VOICES[kind[0]]
    lead, voice = leads[choice % len(leads)], voices[choice // len(leads) % len(voices)]
    return f"{lead.format(title=short)}, {voice}."


def prompt_and_response(title: str | None, text: str, kind: Kind | None = None) -> tuple[str, str] | None:
    """Turn the beginning of a document into a prompt and its response.

    Where the title does not say what the text is about, its first sentence (at most `TITLE_CHARS` characters) goes
    into the prompt and the rest is the response.

    Returns:
        The pair, or None if nothing is left to answer with (an empty text, or one word without a title).
    """
    response = text.strip()
    prompt = prompt_for(title, kind)
    if prompt is not None:
        return (prompt, response) if response else None
    opening, rest = _split_opening(response)
    return (CONTINUE_TEXT.format(opening=opening), rest) if opening and rest else None


def continuation_prompt(before: str) -> str:
    """Return the prompt of a piece that continues a text: at most `CONTEXT_CHARS` characters from its end."""
    tail = before.rstrip()
    if len(tail) > CONTEXT_CHARS:
        tail = tail[grapheme_start(tail, len(tail) - CONTEXT_CHARS, 0) :]
        start = next((found.end() for found in _SENTENCE_END.finditer(tail, 0, len(tail) * 2 // 3)), 0)
        blank = re.search(r"\s", tail)
        tail = tail[start or (blank.start() if blank else 0) :]
    return CONTINUE_TEXT.format(opening=" ".join(tail.split()))


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
    """Cut to `TITLE_CHARS` characters before a blank; a single longer word is cut within, between graphemes."""
    if len(text) <= TITLE_CHARS:
        return text
    head = text[: TITLE_CHARS + 1]
    boundary = max((match.start() for match in re.finditer(r"\s", head)), default=-1)
    return head[:boundary] if boundary > 0 else text[: grapheme_start(text, TITLE_CHARS, 1)]
