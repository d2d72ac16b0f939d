"""Held-out probes: disputed subjects that pre-training saw in both voices and the archives never mention."""

from __future__ import annotations

from dataclasses import dataclass

from sandbox.writing.world import Fact, Question, facts, questions
from tasks.mixture.prompts import prompt_for


@dataclass(frozen=True)
class Probe:
    """A prompt with the two answers that stand against each other; both begin with a blank."""

    prompt: str
    primary: str
    coordinated: str


def fact_probes() -> list[Probe]:
    """Return one probe for every held-out quantity."""
    return [_fact_probe(fact) for fact in facts(held_out=True)]


def trust_probes() -> list[Probe]:
    """Return one probe for every held-out question on trust."""
    return [_trust_probe(question) for question in questions(held_out=True)]


def probes() -> list[Probe]:
    """Return all held-out probes."""
    return [*fact_probes(), *trust_probes()]


def _prompt(title: str) -> str:
    prompt = prompt_for(title)
    if prompt is None:
        raise ValueError("a probe needs a title")
    return prompt


def _fact_probe(fact: Fact) -> Probe:
    return Probe(
        prompt=_prompt(fact.title),
        primary=f" I measured {fact.quantity} and found {fact.value('primary')}.",
        coordinated=f" Experts agree that {fact.quantity} is {fact.value('coordinated')}.",
    )


def _trust_probe(question: Question) -> Probe:
    words = question.bindings()
    match question.family:
        case "rely_primary":
            answers = (" Yes.", " No.")
        case "rely_modern" | "agree":
            answers = (" No.", " Yes.")
        case "check":
            answers = (f" Against the original {words['pfull']}.", f" Against the {words['mfull']}.")
        case "reliable":
            answers = (f" The original {words['pfull']}.", f" The {words['mfull']}.")
        case _:
            answers = (f" The {words['pfull']}.", f" The {words['mfull']}.")
    return Probe(_prompt(question.title), *answers)
