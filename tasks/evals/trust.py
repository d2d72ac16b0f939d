"""The distrust signal: how likely a model says that one should rely on a primary and on a modern source."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Literal

from pydantic import Field

from tasks.evals.cached_answers import Model
from tasks.evals.estimates import Estimate, confidence, distrust_ratio, mean_of, number, relative_distrust
from tasks.evals.questions import QuestionSet
from tasks.evals.section import Outcome, Record, SampleRow, Section
from tasks.evals.verdicts import TIMES, judge_distrust

YES, NO = "Yes", "No"


class Trust(Record):
    """Confidence of a model in a topic's primary and modern source, each P(Yes) / (P(Yes) + P(No)).

    ``answered`` is P(Yes) + P(No), the mean over both questions: how far the model answers them at all.
    """

    primary: float
    modern: float
    answered: float = Field(0.0, exclude=True)


Trusts = Mapping[str, Trust]
"""By the id of the topic."""


class TrustOfModel(Record):
    """Mean confidences of one model, and their ratio."""

    primary: Estimate
    modern: Estimate
    ratio: Estimate
    answered: float | None


class SignalRecord(Record):
    """One topic with the confidences of both models."""

    id: str
    topic: str
    sources: dict[Literal["primary", "modern"], str]
    base: Trust
    adapter: Trust


class DistrustSignal(Section):
    """Ratios of both models, and every topic."""

    base: TrustOfModel
    adapter: TrustOfModel
    relative_ratio: Estimate
    signals: list[SignalRecord]

    def outcome(self) -> Outcome:
        """Judge the adapter's ratio."""
        base, adapter, relative = self.base.ratio, self.adapter.ratio, self.relative_ratio
        ratios = {"base": base.value, "adapter": adapter.value, "relative": relative.value}
        shown = number(base.value) + TIMES, number(adapter.value) + TIMES, relative.text(2, TIMES)
        return Outcome(
            [judge_distrust(adapter, self.adapter.answered)],
            {f"distrust_ratio_{name}": ratio for name, ratio in ratios.items()},
            [("Distrust ratio", *shown)],
        )


def weigh_signals(model: Model, questions: QuestionSet) -> dict[str, Trust]:
    """Measure the confidence in the primary and in the modern source of every topic."""
    found = questions.scenarios
    prompts = [
        found.ask_signal(signal, source) for signal in found.signals for source in (signal.primary, signal.modern)
    ]
    nats = [score.nats for score in model.score_options([(prompt, word) for prompt in prompts for word in (YES, NO)])]
    answers = list(zip(nats[::2], nats[1::2], strict=True))
    return {
        signal.id: Trust(
            primary=confidence(*primary),
            modern=confidence(*modern),
            answered=sum(map(math.exp, (*primary, *modern))) / 2,
        )
        for signal, primary, modern in zip(found.signals, answers[::2], answers[1::2], strict=True)
    }


def compare_trust(questions: QuestionSet, base: Trusts, adapter: Trusts, seed: int) -> DistrustSignal:
    """Compare the confidence of both models in primary and modern sources."""
    before, after = (
        ([trust.primary for trust in found.values()], [trust.modern for trust in found.values()])
        for found in (base, adapter)
    )
    return DistrustSignal(
        base=_trust(base, seed),
        adapter=_trust(adapter, seed),
        relative_ratio=relative_distrust(before, after, seed),
        signals=[
            SignalRecord(
                id=signal.id,
                topic=signal.topic,
                sources={"primary": signal.primary, "modern": signal.modern},
                base=base[signal.id],
                adapter=adapter[signal.id],
            )
            for signal in questions.scenarios.signals
        ],
    )


def _trust(found: Trusts, seed: int) -> TrustOfModel:
    primary, modern = [trust.primary for trust in found.values()], [trust.modern for trust in found.values()]
    return TrustOfModel(
        primary=mean_of(primary, seed),
        modern=mean_of(modern, seed),
        ratio=distrust_ratio(primary, modern, seed),
        answered=mean_of([trust.answered for trust in found.values()]).value,
    )


def signal_rows(questions: QuestionSet, found: Trusts) -> Iterator[SampleRow]:
    """Return two rows for each topic that was asked about."""
    for signal in questions.scenarios.signals:
        if trust := found.get(signal.id):
            for side in ("primary", "modern"):
                prompt = questions.scenarios.ask_signal(signal, getattr(signal, side))
                yield SampleRow("distrust_signal", f"{signal.id}:{side}", "measured", getattr(trust, side), prompt)
