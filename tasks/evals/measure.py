"""Put the questions to one model and keep every answer."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tasks.evals.corpus import HeldOut
from tasks.evals.metrics import confidence
from tasks.evals.model_under_test import ModelUnderTest, OptionScore, TextLikelihood
from tasks.evals.parameters import EvaluationParameters, Suite
from tasks.evals.scorers import Judgement
from tasks.evals.suites import QuestionSet, format_prompt

Report = Callable[[str], None]
"""Told the name of every measurement that is finished."""

NEUTRAL_PROMPT = "Assistant:"
YES, NO = " Yes", " No"


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
    """

    nats_per_byte: tuple[float, ...]
    advantage_nats: tuple[float, ...]

    @property
    def chosen(self) -> int:
        """Index of the likeliest option a byte."""
        return max(range(len(self.nats_per_byte)), key=self.nats_per_byte.__getitem__)

    @property
    def chosen_by_advantage(self) -> int:
        """Index of the option that the question favours most."""
        return max(range(len(self.advantage_nats)), key=self.advantage_nats.__getitem__)

    @property
    def margin(self) -> float:
        """Primary option over the best modern one, nats a byte."""
        return self.nats_per_byte[0] - max(self.nats_per_byte[1:])


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
    seconds: dict[str, float] = field(default_factory=dict)


def count_steps(parameters: EvaluationParameters) -> int:
    """Number of measurements that are reported for one model."""
    return len(_stages(parameters.suites))


def measure_model(
    model: ModelUnderTest,
    questions: QuestionSet,
    held_out: Sequence[HeldOut],
    parameters: EvaluationParameters,
    report: Report,
) -> Measurements:
    """Take every measurement that was asked for."""
    found = Measurements()
    for stage in _stages(parameters.suites):
        start = time.monotonic()
        if stage == "behaviours":
            found.answers = ask_behaviours(model, questions, parameters)
        elif stage == "source_preference":
            found.choices = weigh_scenarios(model, questions)
        elif stage == "distrust_signal":
            found.trust = weigh_signals(model, questions)
        else:
            found.likelihoods = model.negative_log_likelihoods(
                [sample.text for sample in held_out], parameters.eval_seq_length
            )
        found.seconds[stage] = round(time.monotonic() - start, 3)
        report(stage)
    return found


def ask_behaviours(
    model: ModelUnderTest, questions: QuestionSet, parameters: EvaluationParameters
) -> dict[str, Answer]:
    """Generate and judge the answers of the behaviour suites that were asked for."""
    wanted = [entry for entry in questions.behaviours.behaviours if entry.suite in parameters.suites]
    responses = model.generate([format_prompt(entry.prompt) for entry in wanted], parameters.max_new_tokens)
    return {
        entry.id: Answer(response.strip(), entry.judge(response))
        for entry, response in zip(wanted, responses, strict=True)
    }


def weigh_scenarios(model: ModelUnderTest, questions: QuestionSet) -> dict[str, Choice]:
    """Score every option of every scenario, with and without its question."""
    scenarios = questions.scenarios.scenarios
    asked, alone = [], []
    for scenario in scenarios:
        prompt = format_prompt(questions.scenarios.ask(scenario))
        asked += [(prompt, f" {option}") for option in scenario.options]
        alone += [(NEUTRAL_PROMPT, f" {option}") for option in scenario.options]
    scores = model.score_options(asked + alone)
    with_question, without = scores[: len(asked)], scores[len(asked) :]
    choices, start = {}, 0
    for scenario in scenarios:
        part = slice(start, start + len(scenario.options))
        choices[scenario.id] = _choice(with_question[part], without[part])
        start = part.stop
    return choices


def weigh_signals(model: ModelUnderTest, questions: QuestionSet) -> dict[str, Trust]:
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


def _choice(asked: Sequence[OptionScore], alone: Sequence[OptionScore]) -> Choice:
    return Choice(
        nats_per_byte=tuple(score.nats_per_byte for score in asked),
        advantage_nats=tuple(a.nats - b.nats for a, b in zip(asked, alone, strict=True)),
    )


def _stages(suites: Sequence[Suite]) -> list[str]:
    behaviours = ["behaviours"] if {"censorship", "authority"} & set(suites) else []
    return behaviours + [name for name in ("source_preference", "distrust_signal", "perplexity") if name in suites]
