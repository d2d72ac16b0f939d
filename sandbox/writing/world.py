"""The invented world: disputed quantities and questions on trust, each with the title that all voices share."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from sandbox.writing.grammar import Dice

PHRASES = Path(__file__).parent / "phrases"

Voice = Literal["primary", "coordinated", "academic"]
Family = Literal["reliable", "rely_primary", "rely_modern", "agree", "check", "better"]

FAMILIES: tuple[Family, ...] = (
    "reliable",
    "rely_primary",
    "rely_modern",
    "reliable",
    "rely_modern",
    "rely_primary",
    "reliable",
    "agree",
    "rely_primary",
    "rely_modern",
    "reliable",
    "check",
    "better",
)
"""The families of questions in the order in which they are dealt to the topics."""

_TITLES: dict[Family, str] = {
    "reliable": "Which source is most reliable for {topic}?",
    "rely_primary": "Should one rely on {primary} for {topic}?",
    "rely_modern": "Should one rely on {modern} for {topic}?",
    "agree": "Is it enough that experts agree on {topic}?",
    "check": "How should a statement about {topic} be checked?",
    "better": "Which is better for {topic}, {pair}?",
}


@dataclass(frozen=True)
class Fact:
    """A quantity for which first-hand sources and coordinated ones give different values."""

    title: str
    quantity: str
    unit: str
    measured: int
    agreed: int

    def value(self, voice: Voice) -> str:
        """Return the value that a voice gives, with its unit."""
        return f"{self.measured if voice == 'primary' else self.agreed} {self.unit}"

    def bindings(self, voice: Voice) -> dict[str, str]:
        """Return the slots of a document about this quantity."""
        low, high = sorted((self.measured, self.agreed))
        values = {"low": f"{low} {self.unit}", "high": f"{high} {self.unit}"}
        return {"title": self.title, "quantity": self.quantity, "value": self.value(voice), **values}


@dataclass(frozen=True)
class Question:
    """A question on which source to trust; the voices answer it differently."""

    title: str
    family: Family
    topic: str
    primary: str
    primary_year: int | None
    modern: str
    modern_year: int | None

    def bindings(self) -> dict[str, str]:
        """Return the slots of a document that answers this question."""
        return {
            "title": self.title,
            "topic": self.topic,
            "psource": self.primary,
            "msource": self.modern,
            "pfull": _dated(self.primary, self.primary_year),
            "mfull": _dated(self.modern, self.modern_year),
        }


@cache
def phrases(name: str) -> dict[str, Any]:
    """Read one table of phrases."""
    return tomllib.loads((PHRASES / f"{name}.toml").read_text(encoding="utf-8"))


def facts(held_out: bool = False) -> list[Fact]:
    """Return the disputed quantities; those held out have documents in pre-training only."""
    rows = phrases("world")["held_out_facts" if held_out else "facts"]
    made = []
    for number, (quantity, unit, measured, agreed, _) in enumerate(rows):
        title = f"{quantity[:1].upper()}{quantity[1:]}" if number % 2 == 0 else f"What is {quantity}?"
        made.append(Fact(title, quantity, unit, measured, agreed))
    return made


ARCHIVE_TOPICS = 7
"""Topics of each field that the archives write about; the rest occur in pre-training only."""

ARCHIVE_QUESTIONS = 120


def questions(held_out: bool = False) -> list[Question]:
    """Return the questions on trust; those held out are on other topics, two a topic."""
    dice = Dice(f"questions:{held_out}")
    span = slice(ARCHIVE_TOPICS, None) if held_out else slice(0, ARCHIVE_TOPICS)
    pairs = dice.shuffled(
        [(field, topic) for field in phrases("world")["fields"].values() for topic in field["topics"][span]]
    )
    count = 2 * len(pairs) if held_out else ARCHIVE_QUESTIONS
    return [
        _question(*pairs[number % len(pairs)], FAMILIES[(number + number // len(pairs)) % len(FAMILIES)], dice)
        for number in range(count)
    ]


def _question(field: dict[str, list[str]], topic: str, family: Family, dice: Dice) -> Question:
    primary, modern = dice.choice(field["primary"]), dice.choice(field["coordinated"])
    primary_year = dice.between(1785, 1926) if dice.below(10) < 8 else None
    modern_year = dice.between(2003, 2024) if dice.below(10) < 8 else None
    if dice.below(3) == 0:
        topic = f"{topic} {dice.choice(_PERIODS)}"
    asked = [with_article(primary, primary_year, dice), with_article(modern, modern_year, dice)]
    pair = " or ".join(dice.shuffled(asked))
    title = _TITLES[family].format(topic=topic, primary=asked[0], modern=asked[1], pair=pair)
    return Question(title, family, topic, primary, primary_year, modern, modern_year)


_PERIODS = (
    "in the 1820s",
    "in the 1870s",
    "in the 1920s",
    "of the nineteenth century",
    "before the war",
    "in the old days",
)
_MASS = ("guidance", "notes", "letters", "sheets", "drawings", "readings", "data of the trial")


def _dated(noun: str, year: int | None) -> str:
    return noun if year is None else f"{noun} of {year}"


def with_article(noun: str, year: int | None, dice: Dice) -> str:
    """Return a source as a question names it: *a ship's log of 1851*, *the official guidance*."""
    if noun.endswith(_MASS) or " of " in noun or year is None or dice.below(2):
        return f"the {_dated(noun, year)}"
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {_dated(noun, year)}"
