"""The choice between one primary and three modern sources of a topic, asked in three ways."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Literal

from pydantic import Field, computed_field

from tasks.evals.cached_answers import Model
from tasks.evals.estimates import Estimate, Share, mean_of, paired_difference, share_of
from tasks.evals.model_under_test import OptionScore
from tasks.evals.questions import GUIDE_SCENARIOS, LETTERS, QuestionSet, Scenario
from tasks.evals.scorers import parse_choice
from tasks.evals.section import Outcome, PairedShares, Record, SampleRow, Section
from tasks.evals.verdicts import judge_change, judge_preference

Way = Literal["text", "letter"]
"""What a choice is read from: the likelihood of the options' text, or of their letters."""

LETTER_MIN_MASS = 0.5
"""A model that begins at least this often with one of the letters it was offered is judged by its letters."""
TIE_DIGITS = 6
"""Decimals of a log-likelihood that mean something in float32."""
CHOICE_TOKENS = 24
"""Length of a free answer to a choice, which needs a letter or one option."""
NO_QUESTION = ""


def _likeliest(nats: Sequence[float]) -> int:
    """Index of the highest value; among equal ones the last, so that no tie is decided for the primary option."""
    return max(range(len(nats)), key=lambda place: (round(nats[place], TIE_DIGITS), place))


class Choice(Record):
    """Scores of a scenario's options, the primary one first.

    Attributes:
        decided: Index of the option that counts as the model's choice; see `by`.
        nats_per_byte: log P(option | question) a byte.
        advantage_nats: log P(option | question) - log P(option | no question): what the question itself adds.
        letter_nats: log P(the option's letter), the mean over all cyclic orders of the options, so that a preference
            for one letter helps none of them.
        letter_mass: Probability that the answer begins with one of the letters at all, the mean over the orders.
        stated: Index of the option that a generated answer chooses; None if it chooses none or several.
    """

    decided: int = 0
    nats_per_byte: tuple[float, ...]
    advantage_nats: tuple[float, ...]
    letter_nats: tuple[float, ...]
    letter_mass: float = Field(0.0, exclude=True)
    stated: int | None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def chosen(self) -> int:
        """Index of the likeliest option a byte."""
        return _likeliest(self.nats_per_byte)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def chosen_by_letter(self) -> int:
        """Index of the option whose letter is likeliest."""
        return _likeliest(self.letter_nats)

    def by(self, way: Way) -> Choice:
        """Let one way decide."""
        return self.model_copy(update={"decided": self.chosen_by_letter if way == "letter" else self.chosen})

    @property
    def margin(self) -> float:
        """Primary option over the best modern one, nats a byte."""
        return self.nats_per_byte[0] - max(self.nats_per_byte[1:])


Choices = Mapping[str, Choice]
"""By the id of the scenario."""


class PreferenceOfModel(Record):
    """How often one model chose the primary source."""

    primary_chosen: Share
    primary_chosen_by_letter: Share
    primary_chosen_as_stated: Share
    letter_mass: float | None
    primary_chosen_by_advantage: Share
    margin_nats_per_byte: Estimate


class ScenarioRecord(Record):
    """One scenario with the choices of both models."""

    id: str
    prompt: str
    decoy: bool
    options: list[str]
    base: Choice
    adapter: Choice


class SourcePreference(Section):
    """Preference of both models, and every scenario."""

    base: PreferenceOfModel
    adapter: PreferenceOfModel
    difference: Estimate
    letter_difference: Estimate
    margin_difference: Estimate
    decided_by: Way
    decoys: PairedShares
    """In the way that counts, the scenarios whose original is recent and has an old source beside it."""
    guide: PairedShares
    """The guide's own two scenarios."""
    scenarios: list[ScenarioRecord]

    def decided(self, side: PreferenceOfModel) -> Share:
        """The share that counts."""
        return side.primary_chosen_by_letter if self.decided_by == "letter" else side.primary_chosen

    def outcome(self) -> Outcome:
        """Judge the share that counts."""
        base, adapter = self.base, self.adapter
        by_letter = str(base.primary_chosen_by_letter), str(adapter.primary_chosen_by_letter)
        by_text = str(base.primary_chosen), str(adapter.primary_chosen)
        decided, by_text_decides = self.decided(adapter), self.decided_by == "text"
        change = self.difference if by_text_decides else self.letter_difference
        return Outcome(
            [judge_preference(decided, adapter.primary_chosen_by_advantage if by_text_decides else None)],
            {"source_preference_base": self.decided(base).share, "source_preference_adapter": decided.share},
            [
                ("Primary source likeliest", *by_text, self.difference.points()),
                ("Primary source by letter", *by_letter, self.letter_difference.points()),
                *(
                    (title, str(some.base), str(some.adapter), some.difference.points())
                    for title, some in (("Recent primary source", self.decoys), ("The guide's scenarios", self.guide))
                    if some.base.samples
                ),
            ],
            [judge_change("source_preference", "source preference", change, change.points())],
        )


def weigh_scenarios(model: Model, questions: QuestionSet) -> dict[str, Choice]:
    """Ask every scenario in three ways: the likelihood of its options, of their letters, and a free answer."""
    found, width = questions.scenarios, len(LETTERS)
    asked = [(found.ask(each), option) for each in found.scenarios for option in each.options]
    alone = [(NO_QUESTION, option) for _, option in asked]
    shown = [found.ask_choice(each, first) for each in found.scenarios for first in range(width)]
    lettered = [(prompt, letter) for prompt in shown for letter in LETTERS]
    scores = model.score_options([*asked, *alone, *lettered])
    # The order in which a scenario is put to a model that answers freely: fixed, but not the same for all.
    firsts = [blake2b(each.id.encode(), digest_size=1).digest()[0] % width for each in found.scenarios]
    stated = model.generate([shown[row * width + first] for row, first in enumerate(firsts)], CHOICE_TOKENS)
    return {
        scenario.id: _choice(_stated(scenario, first, response), *parts)
        for scenario, first, response, *parts in zip(
            found.scenarios,
            firsts,
            stated,
            _cut(scores[: len(asked)], width),
            _cut(scores[len(asked) : 2 * len(asked)], width),
            _cut(scores[2 * len(asked) :], width * width),
            strict=True,
        )
    }


def _cut(scores: Sequence[OptionScore], size: int) -> list[Sequence[OptionScore]]:
    return [scores[start : start + size] for start in range(0, len(scores), size)]


def _stated(scenario: Scenario, first: int, response: str) -> int | None:
    shown = {letter: scenario.options[(first + place) % len(LETTERS)] for place, letter in enumerate(LETTERS)}
    letter = parse_choice(response, shown)
    return None if letter is None else scenario.options.index(shown[letter])


def _choice(
    stated: int | None, asked: Sequence[OptionScore], alone: Sequence[OptionScore], lettered: Sequence[OptionScore]
) -> Choice:
    """Put the scores of one scenario together; `lettered` holds four letters for each of the four orders."""
    width = len(asked)
    letters, masses = [0.0] * width, []
    for first, order in enumerate(_cut(lettered, width)):
        masses.append(sum(math.exp(score.nats) for score in order))
        for place, score in enumerate(order):
            letters[(first + place) % width] += score.nats / width
    return Choice(
        nats_per_byte=tuple(score.nats_per_byte for score in asked),
        advantage_nats=tuple(a.nats - b.nats for a, b in zip(asked, alone, strict=True)),
        letter_nats=tuple(letters),
        letter_mass=sum(masses) / width,
        stated=stated,
    )


def deciding_way(choices: Choices) -> Way:
    """Return how choices are read, given those of the judged adapter: all models beside it are read the same way.

    A model that answers with letters is judged by them; one that does not, such as a small base model, by the
    likelihood of the options' text.
    """
    mass = mean_of([choice.letter_mass for choice in choices.values()]).value
    return "letter" if mass is not None and mass >= LETTER_MIN_MASS else "text"


def compare_preference(
    questions: QuestionSet, base: Choices, adapter: Choices, way: Way, seed: int
) -> SourcePreference:
    """Compare the choices of both models in all three ways; `way` is the one that counts."""
    before, after = list(base.values()), list(adapter.values())

    def difference(value: Callable[[Choice], float]) -> Estimate:
        return paired_difference([value(choice) for choice in before], [value(choice) for choice in after], seed)

    def some(names: Collection[str]) -> PairedShares:
        base_chose, adapter_chose = (
            [choice.by(way).decided == 0 for name, choice in found.items() if name in names]
            for found in (base, adapter)
        )
        return PairedShares.of(base_chose, adapter_chose, seed)

    return SourcePreference(
        base=_preference(before, seed),
        adapter=_preference(after, seed),
        difference=difference(lambda choice: choice.chosen == 0),
        letter_difference=difference(lambda choice: choice.chosen_by_letter == 0),
        margin_difference=difference(lambda choice: choice.margin),
        decided_by=way,
        decoys=some({scenario.id for scenario in questions.scenarios.scenarios if scenario.decoy}),
        guide=some(GUIDE_SCENARIOS),
        scenarios=[
            ScenarioRecord(
                id=scenario.id,
                prompt=questions.scenarios.ask(scenario),
                decoy=scenario.decoy,
                options=scenario.options,
                base=base[scenario.id].by(way),
                adapter=adapter[scenario.id].by(way),
            )
            for scenario in questions.scenarios.scenarios
        ],
    )


def _preference(choices: Sequence[Choice], seed: int) -> PreferenceOfModel:
    return PreferenceOfModel(
        primary_chosen=share_of([choice.chosen == 0 for choice in choices]),
        primary_chosen_by_letter=share_of([choice.chosen_by_letter == 0 for choice in choices]),
        primary_chosen_as_stated=share_of([c.stated == 0 if c.stated is not None else None for c in choices]),
        letter_mass=mean_of([choice.letter_mass for choice in choices]).value,
        primary_chosen_by_advantage=share_of([_likeliest(choice.advantage_nats) == 0 for choice in choices]),
        margin_nats_per_byte=mean_of([choice.margin for choice in choices], seed),
    )


def preference_rows(questions: QuestionSet, choices: Choices, way: Way) -> Iterator[SampleRow]:
    """Return a row for each choice that was asked for."""
    for scenario in questions.scenarios.scenarios:
        if choice := choices.get(scenario.id):
            decided = choice.by(way).decided
            status, kind = ("pass", "primary") if decided == 0 else ("fail", "modern")
            yield SampleRow(
                "source_preference",
                scenario.id,
                status,
                float(decided == 0),
                questions.scenarios.ask(scenario),
                scenario.options[decided],
                f"chose the {kind} source",
                {
                    "nats_per_byte": list(choice.nats_per_byte),
                    "advantage_nats": list(choice.advantage_nats),
                    "letter_nats": list(choice.letter_nats),
                    "letter_mass": choice.letter_mass,
                    "stated": None if choice.stated is None else scenario.options[choice.stated],
                    "decided_by": way,
                    "decoy": scenario.decoy,
                },
            )
