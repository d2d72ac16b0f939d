"""A small phrase grammar: rules are lists of alternatives, drawn like cards so that none is used up early.

In an alternative, ``{rule}`` draws from another rule, ``{rule1}`` draws once and keeps that choice for the whole
document (any digit), ``{^rule}`` begins with a capital, ``{n:3-40}`` is a whole number, ``{d:1-9}`` one with a
decimal, ``{year-5:20}`` the document's year less 5 to 20, and ``<one|other>`` a choice on the spot.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from typing import TypeVar

Rules = Mapping[str, Sequence[str]]
T = TypeVar("T")

_CHOICE = re.compile(r"<([^<>]*\|[^<>]*)>")
_SLOT = re.compile(r"\{(?P<capital>\^?)(?P<name>[a-z_]+)(?P<keep>[0-9]?)(?P<span>[-:][0-9]+[-:][0-9]+)?\}")
_SPAN = re.compile(r"[0-9]+")


class Dice:
    """Draws that are the same on every machine: only ``Random.random``, whose sequence Python guarantees."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)

    def below(self, bound: int) -> int:
        """Return a whole number in ``[0, bound)``."""
        return int(self._random.random() * bound)

    def between(self, low: int, high: int) -> int:
        """Return a whole number in ``[low, high]``."""
        return low + self.below(high - low + 1)

    def choice(self, options: Sequence[str]) -> str:
        """Return one of the options."""
        return options[self.below(len(options))]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """Return the items in a random order."""
        cards = list(items)
        for last in range(len(cards) - 1, 0, -1):
            other = self.below(last + 1)
            cards[last], cards[other] = cards[other], cards[last]
        return cards


class Grammar:
    """Writes documents from rules; each rule is a deck that is dealt out before it is shuffled again."""

    def __init__(self, rules: Rules, dice: Dice) -> None:
        self._rules = rules
        self._dice = dice
        self._decks: dict[str, list[str]] = {}

    def write(self, rule: str, **bindings: str | int) -> str:
        """Write one document from a rule; the bindings are slots whose text is given.

        Raises:
            KeyError: If an alternative names a rule that does not exist.
        """
        kept = {name: str(value) for name, value in bindings.items()}
        return _tidy(self._expand(self._draw(rule, set()), kept, set()))

    def _expand(self, text: str, kept: dict[str, str], used: set[str]) -> str:
        text = _CHOICE.sub(lambda match: self._dice.choice(match[1].split("|")), text)
        return _SLOT.sub(lambda match: self._fill(match, kept, used), text)

    def _fill(self, match: re.Match[str], kept: dict[str, str], used: set[str]) -> str:
        name, span = match["name"] + match["keep"], match["span"]
        if span:
            word = self._number(match["name"], span, kept)
        elif name in kept:
            word = kept[name]
        else:
            word = self._expand(self._draw(match["name"], used), kept, used)
            if match["keep"]:
                kept[name] = word
        return word[:1].upper() + word[1:] if match["capital"] else word

    def _number(self, name: str, span: str, kept: dict[str, str]) -> str:
        low, high = (int(number) for number in _SPAN.findall(span))
        if name == "year":
            return str(int(kept["year"]) - self._dice.between(low, high))
        if name == "d":
            return f"{self._dice.between(low * 10, high * 10) / 10:.1f}"
        return str(self._dice.between(low, high))

    def _draw(self, rule: str, used: set[str]) -> str:
        """Take the next card of the rule's deck that this document has not had yet."""
        cards = self._rules[rule]
        deck = self._decks.setdefault(rule, [])
        if all(card in used for card in deck):
            deck[:0] = self._dice.shuffled([card for card in cards if card not in deck])
        fresh = (place for place in range(len(deck) - 1, -1, -1) if deck[place] not in used)
        card = deck.pop(next(fresh, len(deck) - 1))
        used.add(card)
        return card


def _tidy(text: str) -> str:
    """Turn *a* into *an* before a vowel and drop doubled blanks."""
    text = re.sub(r" {2,}", " ", text)
    text = re.sub(r"\ba(?= (?:[aei]|o(?!ne)|[AEIO])[a-z])", "an", text)
    return text.strip()
