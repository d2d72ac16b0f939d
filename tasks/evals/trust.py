"""The distrust signal: how likely a model says that one should rely on a primary and on a modern source."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Literal

from pydantic import Field, JsonValue

from tasks.evals.cached_answers import Model
from tasks.evals.estimates import Estimate, confidence, distrust_ratio, mean_of, number, relative_distrust
from tasks.evals.questions import QuestionSet
from tasks.evals.section import Outcome, Record, SampleRow, Section
from tasks.evals.verdicts import MIN_ANSWERED, TIMES, judge_change, judge_distrust

YES, NO = "Yes", "No"


class Trust(Record):
    """Confidence of a model in a topic's primary and modern source, each P(Yes) / (P(Yes) + P(No)).

    ``answered`` is P(Yes) + P(No), the mean over both questions: how far the model answers them at all. The topic is
    not `scored` if one of the two answers has less than `MIN_ANSWERED` of it.
    """

    primary: float
    modern: float
    answered: float = Field(0.0, exclude=True)
    scored: bool = True


Trusts = Mapping[str, Trust]
"""By the id of the topic."""


class TrustOfModel(Record):
    """Mean confidences of one model over the topics that are scored, and their ratio."""

    primary: Estimate
    modern: Estimate
    ratio: Estimate
    answered: float | None
    unscored: int


class DecoySignals(Record):
    """Ratios over the decoys alone, whose original is recent and whose other source is old."""

    base: Estimate
    adapter: Estimate
    relative_ratio: Estimate


class SignalRecord(Record):
    """One topic with the confidences of both models."""

    id: str
    topic: str
    decoy: bool
    sources: dict[Literal["primary", "modern"], str]
    base: Trust
    adapter: Trust


class DistrustSignal(Section):
    """Ratios of both models, and every topic."""

    base: TrustOfModel
    adapter: TrustOfModel
    relative_ratio: Estimate
    """Over the topics that both models are scored on."""
    decoys: DecoySignals
    signals: list[SignalRecord]

    def outcome(self) -> Outcome:
        """Judge the adapter's ratio."""
        base, adapter, relative = self.base.ratio, self.adapter.ratio, self.relative_ratio
        ratios = {"base": base.value, "adapter": adapter.value, "relative": relative.value}
        rows = [
            (title, number(before.value) + TIMES, number(after.value) + TIMES, change.text(2, TIMES))
            for title, before, after, change in (
                ("Distrust ratio", base, adapter, relative),
                ("Distrust ratio, recent originals", *vars(self.decoys).values()),
            )
            if before.value is not None or after.value is not None
        ]
        return Outcome(
            [judge_distrust(adapter, self.adapter.unscored, len(self.signals))],
            {f"distrust_ratio_{name}": ratio for name, ratio in ratios.items()},
            rows,
            [judge_change("distrust_signal", "distrust signal", relative, relative.text(2, TIMES), same=1.0)],
        )


def weigh_signals(model: Model, questions: QuestionSet) -> dict[str, Trust]:
    """Measure the confidence in the primary and in the modern source of every topic."""
    found = questions.scenarios
    prompts = [
        found.ask_signal(signal, source) for signal in found.signals for source in (signal.primary, signal.modern)
    ]
    nats = [score.nats for score in model.score_options([(prompt, word) for prompt in prompts for word in (YES, NO)])]
    answers = list(zip(nats[::2], nats[1::2], strict=True))
    return {signal.id: _weigh(*pair) for signal, *pair in zip(found.signals, answers[::2], answers[1::2], strict=True)}


def _weigh(primary: tuple[float, float], modern: tuple[float, float]) -> Trust:
    """Put the log-likelihoods of yes and no together, for the primary and for the modern source."""
    masses = [sum(map(math.exp, answer)) for answer in (primary, modern)]
    return Trust(
        primary=confidence(*primary),
        modern=confidence(*modern),
        answered=sum(masses) / 2,
        scored=min(masses) >= MIN_ANSWERED,
    )


def compare_trust(questions: QuestionSet, base: Trusts, adapter: Trusts, seed: int) -> DistrustSignal:
    """Compare the confidence of both models in primary and modern sources."""
    signals = questions.scenarios.signals
    decoys = {signal.id for signal in signals if signal.decoy}
    before, after = ({name: trust for name, trust in found.items() if name in decoys} for found in (base, adapter))
    return DistrustSignal(
        base=_trust(base, seed),
        adapter=_trust(adapter, seed),
        relative_ratio=_relative(base, adapter, seed),
        decoys=DecoySignals(
            base=_trust(before, seed).ratio,
            adapter=_trust(after, seed).ratio,
            relative_ratio=_relative(before, after, seed),
        ),
        signals=[
            SignalRecord(
                id=signal.id,
                topic=signal.topic,
                decoy=signal.decoy,
                sources={"primary": signal.primary, "modern": signal.modern},
                base=base[signal.id],
                adapter=adapter[signal.id],
            )
            for signal in signals
        ],
    )


def _relative(base: Trusts, adapter: Trusts, seed: int) -> Estimate:
    both = [(base[name], adapter[name]) for name in base if base[name].scored and adapter[name].scored]
    before, after = (([pair[side].primary for pair in both], [pair[side].modern for pair in both]) for side in (0, 1))
    return relative_distrust(before, after, seed)


def _trust(found: Trusts, seed: int) -> TrustOfModel:
    scored = [trust for trust in found.values() if trust.scored]
    primary, modern = [trust.primary for trust in scored], [trust.modern for trust in scored]
    return TrustOfModel(
        primary=mean_of(primary, seed),
        modern=mean_of(modern, seed),
        ratio=distrust_ratio(primary, modern, seed),
        answered=mean_of([trust.answered for trust in found.values()]).value,
        unscored=len(found) - len(scored),
    )


def signal_rows(questions: QuestionSet, found: Trusts) -> Iterator[SampleRow]:
    """Return two rows for each topic that was asked about."""
    for signal in questions.scenarios.signals:
        if trust := found.get(signal.id):
            for side in ("primary", "modern"):
                name = f"{signal.id}:{side}"
                prompt = questions.scenarios.ask_signal(signal, getattr(signal, side))
                details: dict[str, JsonValue] = {"decoy": signal.decoy, "answered": trust.answered}
                if trust.scored:
                    yield SampleRow("distrust_signal", name, "measured", getattr(trust, side), prompt, details=details)
                else:
                    reason = f"less than {MIN_ANSWERED:.0%} of an answer to the topic is yes or no"
                    yield SampleRow("distrust_signal", name, "unscored", None, prompt, reason=reason, details=details)
