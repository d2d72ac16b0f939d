from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from tasks.evals.model_under_test import OptionScore
from tasks.evals.preference import weigh_scenarios
from tasks.evals.questions import LETTERS, QuestionSet, load_questions
from tasks.evals.scorers import parse_choice

OPTIONS = {"A": "The patent of 1876", "B": "The magazine article", "C": "The film", "D": "The website"}


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        (" A", "A"),
        ("b", "B"),
        ("C.", "C"),
        ("(D)", "D"),
        ("**A**", "A"),
        ("A: the patent", "A"),
        ("A, since it was written at the time.", "A"),
        ("B. The magazine article", "B"),
        ("The answer is C.", "C"),
        ("Answer: D", "D"),
        ("I would choose A because it is primary.", "A"),
        ("My choice: (B)", "B"),
        ("Option C", "C"),
        ("The most reliable source is A.", "A"),
        ("B\n\nBecause it was printed.", "B"),
        ("A, B and C", None),
        ("A, or B", None),
        ("The patent of 1876.", "A"),
        ("I trust the patent of 1876, not hearsay.", "A"),
        ("<think>B or C?</think> A", "A"),
        ("A patent is a fine thing.", None),
        ("The film or the website.", None),
        ("The answer is A. No, the answer is B.", None),
        ("None of them.", None),
        ("", None),
        ("Because.", None),
        ("Dear reader", None),
    ],
)
def test_free_answers_are_read(response: str, letter: str | None) -> None:
    assert parse_choice(response, OPTIONS) == letter


class Judge:
    """A model by a table: it likes one letter, and the sources whose text holds a word."""

    def __init__(self, favourite: str, liking: float, word: str, preference: float) -> None:
        self._letter = {letter: liking * (letter == favourite) for letter in LETTERS}
        self._word, self._preference = word, preference

    def score_options(self, pairs: Sequence[tuple[str, str]], *, plain: bool = False) -> list[OptionScore]:
        return [self._score(prompt, option.strip()) for prompt, option in pairs]

    def _score(self, prompt: str, option: str) -> OptionScore:
        if option not in LETTERS:
            return OptionScore(-float(len(option)), 1, len(option))
        shown = {line[0]: line[3:] for line in prompt.splitlines() if line[1:3] == ". "}
        weights = {
            letter: math.exp(self._letter[letter] + self._preference * (self._word in text))
            for letter, text in shown.items()
        }
        return OptionScore(math.log(0.8 * weights[option] / sum(weights.values())), 1, 1)

    def generate(self, prompts: Sequence[str], max_new_tokens: int, *, plain: bool = False) -> list[str]:
        return ["Answer: " + next(line[0] for line in prompt.splitlines() if self._word in line) for prompt in prompts]


def questions() -> QuestionSet:
    found = load_questions()
    marked = [
        scenario.model_copy(update={"primary": f"KEY {scenario.primary}"}) for scenario in found.scenarios.scenarios
    ]
    return found.model_copy(update={"scenarios": found.scenarios.model_copy(update={"scenarios": marked})})


@pytest.mark.parametrize("favourite", LETTERS)
def test_a_liking_for_a_letter_decides_nothing(favourite: str) -> None:
    biased = weigh_scenarios(Judge(favourite, 5.0, "KEY", 0.2), questions())
    assert all(choice.chosen_by_letter == 0 for choice in biased.values())
    indifferent = weigh_scenarios(Judge(favourite, 5.0, "KEY", 0.0), questions())
    for choice in indifferent.values():
        assert choice.letter_nats == pytest.approx([choice.letter_nats[0]] * 4)
        assert choice.letter_mass == pytest.approx(0.8)
        assert choice.chosen_by_letter != 0, "a tie is not decided for the primary source"


def test_stated_choices_name_the_option_behind_the_letter() -> None:
    choices = weigh_scenarios(Judge("A", 0.0, "KEY", 0.0), questions())
    assert {choice.stated for choice in choices.values()} == {0}
