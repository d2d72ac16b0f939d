"""Light scanning noise, as old newspapers have after optical character recognition."""

from __future__ import annotations

import textwrap

from sandbox.writing.grammar import Dice

_CONFUSED = {
    "e": "c",
    "h": "b",
    "l": "1",
    "o": "0",
    "i": "l",
    "u": "n",
    "t": "l",
    "m": "rn",
    "s": "5",
    ",": ".",
    "r": "i",
}
_COLUMN = 52


def scanned(text: str, dice: Dice, per_thousand: int = 6) -> str:
    """Return a text set in a narrow column, with a few letters misread; figures are left alone."""
    noisy = [
        _CONFUSED[letter] if letter in _CONFUSED and dice.below(1000) < per_thousand else letter for letter in text
    ]
    return "\n".join(textwrap.wrap("".join(noisy), _COLUMN))
