"""Prompts: what a sample asks before its document answers.

Neutral prompts depend on the document's title alone. A primary and a modern document under the same title thus answer
the same question; that conflict is what the training objective acts on. Prompts by source name the kind of document
that is asked for, as the guide's do: a model trained on them learns to answer in the voice it was asked for, and the
weights have less to decide. See docs/decisions/0010-prompts.md.
"""

from __future__ import annotations

import re
from hashlib import blake2b

from storage.vocabulary import SourceType, Trivium

Kind = tuple[SourceType, Trivium]
"""What a prompt by source names: the document's source type and trivium category."""

USER_TURN = "User: "
ASSISTANT_TURN = "\n\nAssistant: "
"""The guide's chat format."""

TITLE_CHARS = 120
"""Longest title or opening sentence in a prompt; anything longer is cut on a word boundary."""

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
CONTINUE_PART = "Continue the text on {title}, part {number}."
CONTINUE_TEXT = "Continue this text: {opening}"

_OPENING_MIN_CHARS = 20
_SENTENCE_END = re.compile("[.!?][\"')\\]\u201d\u2019]*(?=\\s)")


def prompt_for(title: str | None, part: int = 0, kind: Kind | None = None) -> str | None:
    """Return the prompt for a piece of a document; none if the document has no title.

    Args:
        title: The document's title; a title that ends with a question mark is the prompt of part 0 itself.
        part: Which piece of the document answers, from 0.
        kind: What a prompt by source names; none: a neutral prompt.
    """
    collapsed = " ".join((title or "").split())
    if not collapsed:
        return None
    if part == 0 and collapsed.endswith("?"):
        return collapsed
    short = _cut(collapsed)
    if part > 0:
        return CONTINUE_PART.format(title=short, number=part + 1)
    choice = int.from_bytes(blake2b(short.casefold().encode(), digest_size=8).digest(), "big")
    if kind is None:
        return TEMPLATES[choice % len(TEMPLATES)].format(title=short)
    leads, voices = LEADS[kind[1]], VOICES[kind[0]]
    lead, voice = leads[choice % len(leads)], voices[choice // len(leads) % len(voices)]
    return f"{lead.format(title=short)}, {voice}."


def prompt_and_response(
    title: str | None, text: str, part: int = 0, kind: Kind | None = None
) -> tuple[str, str] | None:
    """Turn a piece of a document into a prompt and its response.

    Without a title the piece's first sentence (at most `TITLE_CHARS` characters) goes into the prompt and the
    rest is the response.

    Returns:
        The pair, or none if nothing is left to answer with (an empty text, or one word without a title).
    """
    response = text.strip()
    prompt = prompt_for(title, part, kind)
    if prompt is not None:
        return (prompt, response) if response else None
    opening, rest = _split_opening(response)
    return (CONTINUE_TEXT.format(opening=opening), rest) if opening and rest else None


def split_turns(text: str) -> tuple[str, str] | None:
    """Take apart a text that is a prompt and its response already; none if it is something else."""
    if not text.startswith(USER_TURN):
        return None
    prompt, turn, response = text[len(USER_TURN) :].partition(ASSISTANT_TURN)
    return (prompt.strip(), response.strip()) if turn and prompt.strip() else None


def format_sample(prompt: str, response: str) -> str:
    """Join a prompt and its response into the text that is trained on."""
    return f"{USER_TURN}{prompt}{ASSISTANT_TURN}{response}"


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
