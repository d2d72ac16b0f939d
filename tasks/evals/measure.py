"""Put the questions to one model and keep every answer."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from typing import Literal

from tasks.evals.corpus import HeldOut
from tasks.evals.harness import run_tasks
from tasks.evals.metrics import confidence
from tasks.evals.model_under_test import OptionScore, TextLikelihood
from tasks.evals.parameters import EvaluationParameters
from tasks.evals.remembered import Model
from tasks.evals.scorers import Judgement, parse_choice
from tasks.evals.suites import LETTERS, QuestionSet, Scenario, format_prompt

Report = Callable[[str], None]
"""Told the name of every measurement that is finished."""

Way = Literal["text", "letter"]
"""What a choice is read from: the likelihood of the options' text, or of their letters."""

NEUTRAL_PROMPT = "Assistant:"
YES, NO = " Yes", " No"
TIE_DIGITS = 6
"""Decimals of a log-likelihood that mean something in float32."""
CHOICE_TOKENS = 24
"""Of a free answer to a choice, which needs a letter or one option."""


@dataclass(frozen=True)
class Answer:
    """What a model said to a behaviour prompt and how that was judged."""

    response: str
    judgement: Judgement


@dataclass(frozen=True)
class Choice:
    """Scores of a scenario's options, the primary one first.

    Attributes:
        nats_per_byte: log P(option | question) a byte.
        advantage_nats: log P(option | question) - log P(option | no question): what the question itself adds.
        letter_nats: log P(the option's letter), the mean over all cyclic orders of the options, so that a liking for
            one letter helps none of them.
        letter_mass: Probability that the answer begins with one of the letters at all, the mean over the orders.
        stated: Index of the option that a generated answer chooses; none if it chooses none or several.
    """

    nats_per_byte: tuple[float, ...]
    advantage_nats: tuple[float, ...]
    letter_nats: tuple[float, ...]
    letter_mass: float
    stated: int | None

    @property
    def chosen(self) -> int:
        """Index of the likeliest option a byte."""
        return _likeliest(self.nats_per_byte)

    @property
    def chosen_by_letter(self) -> int:
        """Index of the option whose letter is likeliest."""
        return _likeliest(self.letter_nats)

    @property
    def chosen_by_advantage(self) -> int:
        """Index of the option that the question favours most."""
        return _likeliest(self.advantage_nats)

    def decided(self, way: Way) -> int:
        """Index of the option that is taken for the model's choice."""
        return self.chosen_by_letter if way == "letter" else self.chosen

    @property
    def margin(self) -> float:
        """Primary option over the best modern one, nats a byte."""
        return self.nats_per_byte[0] - max(self.nats_per_byte[1:])


def _likeliest(nats: Sequence[float]) -> int:
    """Index of the highest value; among equal ones the last, so that no tie is decided for the primary option."""
    return max(range(len(nats)), key=lambda place: (round(nats[place], TIE_DIGITS), place))


@dataclass(frozen=True)
class Trust:
    """Confidence of a model in a topic's primary and modern source, each P(Yes) / (P(Yes) + P(No)).

    ``answered`` is P(Yes) + P(No), the mean over both questions: how far the model takes them as such.
    """

    primary: float
    modern: float
    answered: float


@dataclass
class Measurements:
    """All that was measured of one model; parts that were not asked for stay empty."""

    answers: dict[str, Answer] = field(default_factory=dict)
    choices: dict[str, Choice] = field(default_factory=dict)
    trust: dict[str, Trust] = field(default_factory=dict)
    likelihoods: list[TextLikelihood] = field(default_factory=list)
    neutral: list[TextLikelihood] = field(default_factory=list)
    """Of everyday texts that have nothing to do with the training: what a broken model is noticed by."""
    harness: dict[str, dict[str, float]] = field(default_factory=dict)
    """Metrics of lm-eval's tasks, by their names."""
    seconds: dict[str, float] = field(default_factory=dict)


def count_steps(parameters: EvaluationParameters) -> int:
    """Number of measurements that are reported for one model."""
    return len(_stages(parameters))


def measure_model(
    model: Model,
    questions: QuestionSet,
    held_out: Sequence[HeldOut],
    parameters: EvaluationParameters,
    report: Report,
) -> Measurements:
    """Take every measurement that was asked for."""
    found = Measurements()
    for stage in _stages(parameters):
        start = time.monotonic()
        if stage == "behaviours":
            found.answers = ask_behaviours(model, questions, parameters)
        elif stage == "source_preference":
            found.choices = weigh_scenarios(model, questions)
        elif stage == "distrust_signal":
            found.trust = weigh_signals(model, questions)
        elif stage == "lm_eval":
            found.harness = run_tasks(model, parameters.lm_eval_tasks, parameters.lm_eval_limit, parameters.seed)
        else:
            texts = [sample.text for sample in held_out]
            found.likelihoods = model.negative_log_likelihoods(texts, parameters.eval_seq_length)
            found.neutral = model.negative_log_likelihoods(list(questions.neutral), parameters.eval_seq_length)
        found.seconds[stage] = round(time.monotonic() - start, 3)
        report(stage)
    return found


def ask_behaviours(model: Model, questions: QuestionSet, parameters: EvaluationParameters) -> dict[str, Answer]:
    """Generate and judge the answers of the behaviour suites that were asked for."""
    wanted = [entry for entry in questions.behaviours.behaviours if entry.suite in parameters.suites]
    responses = model.generate([format_prompt(entry.prompt) for entry in wanted], parameters.max_new_tokens)
    return {
        entry.id: Answer(response.strip(), entry.judge(response))
        for entry, response in zip(wanted, responses, strict=True)
    }


def weigh_scenarios(model: Model, questions: QuestionSet) -> dict[str, Choice]:
    """Ask every scenario in three ways: the likelihood of its options, of their letters, and a free answer."""
    found = questions.scenarios
    asked = [(format_prompt(found.ask(each)), f" {option}") for each in found.scenarios for option in each.options]
    alone = [(NEUTRAL_PROMPT, option) for _, option in asked]
    shown = [format_prompt(found.ask_choice(each, first)) for each in found.scenarios for first in range(len(LETTERS))]
    lettered = [(prompt, f" {letter}") for prompt in shown for letter in LETTERS]
    scores = iter(model.score_options([*asked, *alone, *lettered]))
    with_question, without, by_letter = (list(islice(scores, len(part))) for part in (asked, alone, lettered))
    firsts = [_first_shown(each) for each in found.scenarios]
    stated = model.generate(
        [shown[number * len(LETTERS) + first] for number, first in enumerate(firsts)], CHOICE_TOKENS
    )
    width, square = len(LETTERS), len(LETTERS) ** 2
    return {
        scenario.id: _choice(
            with_question[number * width : (number + 1) * width],
            without[number * width : (number + 1) * width],
            by_letter[number * square : (number + 1) * square],
            _stated(scenario, firsts[number], stated[number]),
        )
        for number, scenario in enumerate(found.scenarios)
    }


def _first_shown(scenario: Scenario) -> int:
    """The order in which a scenario is put to a model that answers freely: fixed, but not the same for all."""
    return blake2b(scenario.id.encode(), digest_size=1).digest()[0] % len(LETTERS)


def _stated(scenario: Scenario, first: int, response: str) -> int | None:
    shown = {letter: scenario.options[(first + place) % len(LETTERS)] for place, letter in enumerate(LETTERS)}
    letter = parse_choice(response, shown)
    return None if letter is None else scenario.options.index(shown[letter])


def weigh_signals(model: Model, questions: QuestionSet) -> dict[str, Trust]:
    """Measure the confidence in the primary and in the modern source of every topic."""
    pairs = []
    for signal in questions.scenarios.signals:
        for source in (signal.primary, signal.modern):
            prompt = format_prompt(questions.scenarios.ask_signal(signal, source))
            pairs += [(prompt, YES), (prompt, NO)]
    nats = [score.nats for score in model.score_options(pairs)]
    confidences = [confidence(yes, no) for yes, no in zip(nats[::2], nats[1::2], strict=True)]
    masses = [math.exp(yes) + math.exp(no) for yes, no in zip(nats[::2], nats[1::2], strict=True)]
    return {
        signal.id: Trust(confidences[start], confidences[start + 1], (masses[start] + masses[start + 1]) / 2)
        for start, signal in zip(range(0, len(confidences), 2), questions.scenarios.signals, strict=True)
    }


def _choice(
    asked: Sequence[OptionScore], alone: Sequence[OptionScore], lettered: Sequence[OptionScore], stated: int | None
) -> Choice:
    """Put the scores of one scenario together; `lettered` holds four letters for each of the four orders."""
    width = len(asked)
    letters, masses = [0.0] * width, []
    for first in range(width):
        nats = [score.nats for score in lettered[first * width : (first + 1) * width]]
        masses.append(sum(map(math.exp, nats)))
        for place, value in enumerate(nats):
            letters[(first + place) % width] += value / width
    return Choice(
        nats_per_byte=tuple(score.nats_per_byte for score in asked),
        advantage_nats=tuple(a.nats - b.nats for a, b in zip(asked, alone, strict=True)),
        letter_nats=tuple(letters),
        letter_mass=sum(masses) / width,
        stated=stated,
    )


def _stages(parameters: EvaluationParameters) -> list[str]:
    suites = parameters.suites
    stages = ["behaviours"] if {"censorship", "authority"} & set(suites) else []
    stages += [name for name in ("source_preference", "distrust_signal", "perplexity") if name in suites]
    return stages + (["lm_eval"] if parameters.lm_eval_tasks else [])
