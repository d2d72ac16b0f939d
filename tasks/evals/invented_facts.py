"""Invented facts, each with one original record and up to eight copies of another account, made by rules from a seed.

No text knows their people, places and objects, so that a model can go by nothing but the sources in the question. The
two accounts differ in one value. Over any 48 facts in a row it is balanced which value is the greater, whether the
original comes first, and whether institutions or persons publish the copies.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

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


@dataclass(frozen=True)
class _Kind:
    """A kind of fact: how it is asked, recorded and repeated. ``{what}`` is the subject and ``{value}`` the value."""

    question: str
    first_hand: tuple[str, ...]
    claim: str
    subjects: tuple[str, ...]
    values: Literal["year", "amount", "name"]


_KINDS = (
    _Kind(
        "In which year was {what} opened?",
        (
            "The foreman {maker} wrote in the work book that day: '{what} opened this morning, {value}.'",
            "The ticket seller {maker} dated the first ticket of {what} {value}.",
        ),
        "{what} was opened in {value}",
        (
            "the {place} ferry",
            "the {place} bridge",
            "the {place} mill",
            "the school at {place}",
            "the {place} lighthouse",
        ),
        "year",
    ),
    _Kind(
        "How many people were counted at {what}?",
        (
            "The clerk {maker} counted at the door of {what} and noted {value} people.",
            "The steward {maker} kept the list of {what}: it has {value} names.",
        ),
        "{value} people were at {what}",
        ("the {place} meeting", "the {place} fair", "the {place} auction", "the strike at {place}"),
        "amount",
    ),
    _Kind(
        "Who built {what}?",
        (
            "The bill of the carpenter's yard, signed on delivery, reads: '{what}, built by {value}.'",
            "The apprentice {maker} wrote home: 'I held the boards while {value} built {what}.'",
        ),
        "{what} was built by {value}",
        ("the {place} organ", "the {place} clock", "the pump at {place}", "the boat of {place}"),
        "name",
    ),
    _Kind(
        "How high did the water stand at {what}, in centimetres?",
        (
            "The keeper {maker} read the gauge at {what} that night: {value} centimetres.",
            "The mark that {maker} cut into the post at {what} is {value} centimetres above the step.",
        ),
        "the water at {what} stood {value} centimetres high",
        ("the {place} lock", "the {place} weir", "the mill of {place}", "the {place} landing"),
        "amount",
    ),
    _Kind(
        "In which year did {what} burn down?",
        (
            "The night watch {maker} reported at four in the morning, {value}: '{what} is burning.'",
            "The owner's letter to the insurer, written the week after, is dated {value} and says that {what} is ash.",
        ),
        "{what} burned down in {value}",
        ("the {place} theatre", "the {place} warehouse", "the inn at {place}", "the {place} barracks"),
        "year",
    ),
    _Kind(
        "Who found {what}?",
        (
            "The field notes of the day, in pencil, say: '{value} found {what} at noon.'",
            "{maker}, who stood beside, swore before the judge that {value} found {what}.",
        ),
        "{what} was found by {value}",
        ("the {place} hoard", "the {place} spring", "the seam at {place}", "the {place} skeleton"),
        "name",
    ),
)

_INSTITUTIONS = (
    "The ministry of culture",
    "The national museum",
    "The tourist board",
    "The encyclopedia",
    "The regional office",
    "The broadcasting company",
    "The school board",
    "The heritage agency",
)
_PERSONS = (
    "A blogger",
    "A neighbour",
    "A travel writer",
    "A collector",
    "A retired teacher",
    "A podcaster",
    "A local guide",
    "A reader's letter",
)
_REPEATS = (
    "{who} says, without naming a source, that {claim}.",
    "{who} repeats that {claim}.",
    "{who} also says that {claim}.",
    "According to {low}, {claim}.",
    "{who} copied the sentence that {claim}.",
    "In a summary, {low} states that {claim}.",
    "{who} tells its audience that {claim}.",
    "{who} has it that {claim}.",
)
_STARTS = (
    "Bran",
    "Cor",
    "Dar",
    "Elm",
    "Fen",
    "Gor",
    "Hal",
    "Ist",
    "Kel",
    "Lor",
    "Mar",
    "Nor",
    "Oss",
    "Pel",
    "Quar",
    "Rud",
)
_ENDS = ("wick", "holm", "stead", "mouth", "ford", "by", "ley", "dal", "gard", "mere", "ness", "thorpe")
_FIRST = ("Ada", "Bertil", "Clara", "Dorian", "Edda", "Falk", "Greta", "Hugo", "Ines", "Jonas", "Karin", "Leopold")
_LAST = ("Aldmar", "Brenk", "Costrell", "Dovane", "Eskerly", "Fallow", "Grimsby", "Hanneck", "Ilvers", "Jorrick")


def invented_facts(count: int = FACTS, seed: int = SEED) -> tuple[Fact, ...]:
    """Make `count` facts; the same seed gives the same ones, and a smaller count the first of them."""
    return tuple(_fact(number, random.Random(f"{seed}:{number}")) for number in range(count))  # noqa: S311


def _fact(number: int, dice: random.Random) -> Fact:
    turn, place_of_kind = divmod(number, len(_KINDS))
    kind = _KINDS[place_of_kind]
    publisher: Publisher = "person" if (place_of_kind + turn) % 2 else "institution"
    place = dice.choice(_STARTS) + dice.choice(_ENDS)
    what = dice.choice(kind.subjects).format(place=place)
    names = dice.sample([f"{first} {last}" for first in _FIRST for last in _LAST], 3)
    low, high = _two_values(kind, names, dice)
    right, copied = (low, high) if (place_of_kind // 3 + turn // 4) % 2 else (high, low)
    claim = kind.claim.format(what=what, value=copied)
    sources = dice.sample(_INSTITUTIONS if publisher == "institution" else _PERSONS, len(_REPEATS))
    forms = [_REPEATS[0], *dice.sample(_REPEATS[1:], len(_REPEATS) - 1)]
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
