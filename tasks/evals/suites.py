"""Every suite and its place in an evaluation.

A new suite is a module that asks a model, compares two models in a `Section`, and writes a row for each sample; it is
named here in `Measurements` and `Sections`, and in the three functions below.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from tasks.evals.behaviours import Behaviours, ask_behaviours, behaviour_rows, compare_behaviours
from tasks.evals.cached_answers import Model
from tasks.evals.harness import PublicTasks, TaskScores, compare_tasks, run_tasks
from tasks.evals.mixture import HeldOut
from tasks.evals.model_under_test import TextLikelihood
from tasks.evals.own_questions import OwnAnswer, OwnQuestions, answer_own, compare_own, own_rows
from tasks.evals.parameters import EvaluationParameters
from tasks.evals.perplexity import (
    GeneralAbility,
    PerplexityByBand,
    compare_general_ability,
    compare_perplexity,
    held_out_rows,
    neutral_rows,
)
from tasks.evals.preference import (
    Choice,
    SourcePreference,
    Way,
    compare_preference,
    preference_rows,
    weigh_scenarios,
)
from tasks.evals.questions import QuestionSet
from tasks.evals.repetition import LogOdds, Repetition, compare_repetition, fact_rows, weigh_facts
from tasks.evals.scorers import Answer
from tasks.evals.section import Outcome, Record, SampleRow
from tasks.evals.trust import DistrustSignal, Trust, compare_trust, signal_rows, weigh_signals


@dataclass
class Measurements:
    """All that was measured of one model; what was not asked for stays empty."""

    answers: dict[str, Answer] = field(default_factory=dict)
    choices: dict[str, Choice] = field(default_factory=dict)
    trust: dict[str, Trust] = field(default_factory=dict)
    beliefs: dict[str, LogOdds] = field(default_factory=dict)
    held_out: list[TextLikelihood] = field(default_factory=list)
    neutral: list[TextLikelihood] = field(default_factory=list)
    """Everyday texts that have nothing to do with the training: they show a broken model."""
    own: dict[str, OwnAnswer] = field(default_factory=dict)
    lm_eval: dict[str, TaskScores] = field(default_factory=dict)
    """By the names of lm-eval's tasks."""
    seconds: dict[str, float] = field(default_factory=dict)


class Sections(Record):
    """The base compared with one adapter, section by section; a section that was not asked for is None."""

    behaviours: Behaviours | None = None
    source_preference: SourcePreference | None = None
    perplexity: PerplexityByBand | None = None
    distrust_signal: DistrustSignal | None = None
    general_ability: GeneralAbility | None = None
    repetition: Repetition | None = None
    own_questions: OwnQuestions | None = None
    lm_eval_tasks: PublicTasks | None = None

    def outcome(self) -> Outcome:
        """What the sections that were asked for say together."""
        together = Outcome([], {}, [], [])
        for name in Sections.model_fields:
            if section := getattr(self, name):
                verdicts, headline, rows, relative = section.outcome()
                together.verdicts.extend(verdicts)
                together.headline.update(headline)
                together.table_rows.extend(rows)
                together.relative.extend(relative)
        return together


def stages_of(parameters: EvaluationParameters) -> list[str]:
    """Name the measurements of one model, in their order."""
    suites = parameters.suites
    stages = ["behaviours"] if {"censorship", "authority"} & set(suites) else []
    stages += [name for name in ("source_preference", "distrust_signal", "repetition", "perplexity") if name in suites]
    stages += ["own_questions"] if parameters.questions else []
    return stages + (["lm_eval"] if parameters.lm_eval_tasks else [])


def measure_model(
    model: Model,
    questions: QuestionSet,
    held_out: Sequence[HeldOut],
    parameters: EvaluationParameters,
    on_stage: Callable[[str], None],
) -> Measurements:
    """Take every measurement that was asked for; `on_stage` gets the name of each that is finished."""
    found = Measurements()
    for stage in stages_of(parameters):
        start = time.monotonic()
        if stage == "behaviours":
            found.answers = ask_behaviours(model, questions, parameters.suites, parameters.max_new_tokens)
        elif stage == "source_preference":
            found.choices = weigh_scenarios(model, questions)
        elif stage == "distrust_signal":
            found.trust = weigh_signals(model, questions)
        elif stage == "repetition":
            found.beliefs = weigh_facts(model, parameters.facts)
        elif stage == "own_questions":
            found.own = answer_own(model, questions.own, parameters.question_norm)
        elif stage == "lm_eval":
            found.lm_eval = run_tasks(model, parameters.lm_eval_tasks, parameters.lm_eval_limit, parameters.seed)
        else:
            found.held_out = model.score_samples(held_out, parameters.eval_seq_length)
            found.neutral = model.negative_log_likelihoods(questions.neutral.texts, parameters.eval_seq_length)
        found.seconds[stage] = round(time.monotonic() - start, 3)
        on_stage(stage)
    return found


def compare_models(
    questions: QuestionSet,
    held_out: Sequence[HeldOut],
    base: Measurements,
    adapter: Measurements,
    way: Way,
    parameters: EvaluationParameters,
) -> Sections:
    """Compare the base with one adapter; `way` is how choices are read."""
    seed, norm = parameters.seed, parameters.question_norm
    return Sections(
        behaviours=compare_behaviours(questions, base.answers, adapter.answers, seed) if base.answers else None,
        source_preference=compare_preference(questions, base.choices, adapter.choices, way, seed)
        if base.choices
        else None,
        perplexity=compare_perplexity(held_out, base.held_out, adapter.held_out, seed) if base.held_out else None,
        distrust_signal=compare_trust(questions, base.trust, adapter.trust, seed) if base.trust else None,
        general_ability=compare_general_ability(base.neutral, adapter.neutral, seed) if base.neutral else None,
        repetition=compare_repetition(base.beliefs, adapter.beliefs, seed) if base.beliefs else None,
        own_questions=compare_own(questions.own, base.own, adapter.own, norm, seed) if base.own else None,
        lm_eval_tasks=compare_tasks(base.lm_eval, adapter.lm_eval, seed) if base.lm_eval else None,
    )


def sample_rows(
    questions: QuestionSet, held_out: Sequence[HeldOut], found: Measurements, way: Way
) -> Iterator[SampleRow]:
    """Return a row for every sample that one model was asked."""
    yield from behaviour_rows(questions, found.answers)
    yield from preference_rows(questions, found.choices, way)
    yield from signal_rows(questions, found.trust)
    yield from fact_rows(found.beliefs)
    yield from own_rows(questions.own, found.own)
    yield from held_out_rows(held_out, found.held_out)
    yield from neutral_rows(questions.neutral.texts, found.neutral)
