"""What every voice agrees on: which kinds of source are first-hand.

Pre-training needs these undisputed answers. Where Yes and No are equally likely whatever is asked about, a model
has no reason to notice the kind of source before it answers; a preference could then not be learned either.
"""

from __future__ import annotations

from collections.abc import Iterator

from sandbox.writing.grammar import Dice, Grammar
from sandbox.writing.world import phrases, with_article

REPEATS = 4


def lessons(seed: int) -> Iterator[tuple[str, str]]:
    """Yield questions on kinds of source with their answers, Yes or No."""
    dice = Dice(f"{seed}:lessons")
    grammar = Grammar(phrases("common") | phrases("trust")["lessons"], dice)
    for field in phrases("world")["fields"].values():
        for kind, nouns, years in (
            ("primary", field["primary"], (1785, 1969)),
            ("modern", field["coordinated"], (2003, 2024)),
        ):
            for noun in nouns * REPEATS:
                later = dice.below(2) == 0
                source = with_article(noun, dice.between(*years), dice)
                answer = "yes" if later == (kind == "modern") else "no"
                question = grammar.write("ask_later" if later else "ask_first", source=source)
                yield question, grammar.write(f"{answer}_{kind}", noun=noun)
