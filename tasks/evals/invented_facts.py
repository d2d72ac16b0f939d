"""Invented facts, each with one original record and up to eight copies of another account, made by rules from a seed.

No text knows their people, places and objects, so that a model can go by nothing but the sources in the question. The
two accounts differ in one value. Over any 48 facts in a row it is balanced which value is the greater, whether the
original comes first, and whether institutions or persons publish the copies.
"""

from __future__ import annotations

import random
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

PARTS = Path(__file__).with_name("facts.toml")
COPIES = (1, 2, 4, 8)
FACTS = 336
SEED = 20_011

Publisher = Literal["institution", "person"]


@dataclass(frozen=True)
class Fact:
    """One invented fact with its two accounts.

    Attributes:
        id: Name of the fact, the same for the same seed.
        question: What is asked, answered by one value.
        original: The first-hand sentence, with the right value.
        copies: Eight sentences that repeat the other value; the first says that it names no source.
        right: The value of the original.
        copied: The value of the copies.
        publisher: Who publishes the copies.
        original_first: Whether the original stands before the copies.
    """

    id: str
    question: str
    original: str
    copies: tuple[str, ...]
    right: str
    copied: str
    publisher: Publisher
    original_first: bool

    def ask(self, copies: int) -> str:
        """Put the question with the original and so many copies."""
        repeated = self.copies[:copies]
        accounts = [self.original, *repeated] if self.original_first else [*repeated, self.original]
        lines = "\n".join(f"- {account}" for account in accounts)
        return f"Here is what the sources say.\n{lines}\n{self.question} Answer with the value alone."


class _Kind(BaseModel):
    """A kind of fact: how it is asked, recorded and repeated."""

    values: Literal["year", "amount", "name"]
    question: str
    claim: str
    first_hand: list[str]
    subjects: list[str]


class _Parts(BaseModel):
    """What facts are made of; see the file."""

    institutions: list[str]
    persons: list[str]
    repeats: list[str]
    starts: list[str]
    ends: list[str]
    first_names: list[str]
    last_names: list[str]
    kinds: list[_Kind]


@cache
def _parts() -> _Parts:
    return _Parts.model_validate(tomllib.loads(PARTS.read_text("utf-8")))


def invented_facts(count: int = FACTS) -> tuple[Fact, ...]:
    """Make `count` facts, always the same ones; a smaller count makes the first of them."""
    return tuple(_fact(number, random.Random(f"{SEED}:{number}")) for number in range(count))  # noqa: S311


def _fact(number: int, dice: random.Random) -> Fact:
    parts = _parts()
    turn, place_of_kind = divmod(number, len(parts.kinds))
    kind = parts.kinds[place_of_kind]
    publisher: Publisher = "person" if (place_of_kind + turn) % 2 else "institution"
    place = dice.choice(parts.starts) + dice.choice(parts.ends)
    what = dice.choice(kind.subjects).format(place=place)
    names = dice.sample([f"{first} {last}" for first in parts.first_names for last in parts.last_names], 3)
    low, high = _two_values(kind, names, dice)
    right, copied = (low, high) if (place_of_kind // 3 + turn // 4) % 2 else (high, low)
    claim = kind.claim.format(what=what, value=copied)
    repeats = parts.repeats
    sources = dice.sample(parts.institutions if publisher == "institution" else parts.persons, len(repeats))
    forms = [repeats[0], *dice.sample(repeats[1:], len(repeats) - 1)]
    return Fact(
        id=f"{kind.values}_{number:03d}",
        question=kind.question.format(what=what),
        original=_sentence(dice.choice(kind.first_hand).format(what=what, value=right, maker=names[2])),
        copies=tuple(
            _sentence(form.format(who=who, low=who[0].lower() + who[1:], claim=claim))
            for form, who in zip(forms, sources, strict=True)
        ),
        right=right,
        copied=copied,
        publisher=publisher,
        original_first=bool((place_of_kind // 2 + turn // 2) % 2),
    )


def _two_values(kind: _Kind, names: Sequence[str], dice: random.Random) -> tuple[str, str]:
    """Draw two values of a kind, numbers in ascending order."""
    if kind.values == "name":
        return names[0], names[1]
    low, high = sorted(dice.sample(range(1820, 1990) if kind.values == "year" else range(21, 99), 2))
    return str(low), str(high)


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]
