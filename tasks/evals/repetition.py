"""Does a claim gain by being copied? An invented fact's original record against 1, 2, 4 or 8 copies of another account.

Measured is the log-odds of the original's value against the copied one after the same question. A model that counts
voices loses it as the copies grow; what the adapter takes away of the base's loss is what its training added. After
*Whose Facts Win?* (ACL 2026, arXiv 2601.03746).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from tasks.evals.cached_answers import Model
from tasks.evals.estimates import Estimate, confidence, mean_of, paired_difference, share_removed
from tasks.evals.invented_facts import COPIES, Fact, Publisher, invented_facts
from tasks.evals.section import Numbers, Outcome, Record, SampleRow, Section, TableRow
from tasks.evals.verdicts import OPEN, Verdict, judge_change

LogOdds = tuple[float, ...]
"""Of the original's value against the copied one, in nats, for each number of copies."""
Beliefs = Mapping[str, LogOdds]
"""By the id of the fact."""
PUBLISHERS: tuple[Publisher, Publisher] = ("institution", "person")


class CurvePoint(Record):
    """What a model believes at one number of copies, over all facts."""

    probability: Estimate
    """Of the original's value among the two."""
    log_odds: Estimate


class CurveOfModel(Record):
    """What a model believes at each number of copies, and how far it shifts from the fewest to the most."""

    curve: dict[int, CurvePoint]
    shift: Estimate
    """Log-odds at 1 copy less those at 8, in nats: above 0 if copies sway the model."""


class Curves(Record):
    """Both models on the same facts."""

    facts: int
    base: CurveOfModel
    adapter: CurveOfModel
    difference: dict[int, Estimate]
    """Probability of the original, adapter less base, in pairs."""
    removed: Estimate
    """Share of the base's shift that the adapter takes away."""


class Repetition(Section, Curves):
    """The curves over all facts, and over those whose copies come from institutions and from persons."""

    publishers: dict[Publisher, Curves]

    def outcome(self) -> Outcome:
        """Judge the share of the base's shift that was taken away."""
        most = max(COPIES)
        headline: Numbers = {
            "repetition_base": self.base.curve[most].probability.value,
            "repetition_adapter": self.adapter.curve[most].probability.value,
            "repetition_removed": self.removed.value,
        }
        rows: list[TableRow] = [
            (
                f"Original believed against {copies} {'copy' if copies == 1 else 'copies'}",
                self.base.curve[copies].probability.percent(),
                self.adapter.curve[copies].probability.percent(),
                self.difference[copies].points(),
            )
            for copies in (min(COPIES), most)
        ]
        shifts = self.base.shift.text(2), self.adapter.shift.text(2)
        rows.append(("Shift by copies, nats", *shifts, f"{self.removed.percent()} removed"))
        return Outcome([], headline, rows, [self._judge()])

    def _judge(self) -> Verdict:
        """Judge the share taken away; a base that copies do not sway leaves nothing to judge."""
        shown = f"{self.removed.percent()} of the shift removed"
        found = judge_change("repetition", "resistance to repetition", self.removed, shown)
        if self.base.shift.low is None or self.base.shift.low > 0:
            return found
        label = f"{OPEN}copies do not clearly sway the base"
        return Verdict(found.name, found.title, found.target, found.found, None, label, decides=False)


def weigh_facts(model: Model, count: int) -> dict[str, LogOdds]:
    """Put the first `count` facts to a model with every number of copies."""
    facts = invented_facts(count)
    pairs = [(fact.ask(copies), value) for fact in facts for copies in COPIES for value in (fact.right, fact.copied)]
    nats = [score.nats for score in model.score_options(pairs)]
    odds = [right - copied for right, copied in zip(nats[::2], nats[1::2], strict=True)]
    width = len(COPIES)
    return {fact.id: tuple(odds[row * width : (row + 1) * width]) for row, fact in enumerate(facts)}


def compare_repetition(base: Beliefs, adapter: Beliefs, seed: int) -> Repetition:
    """Compare the curves of both models on the same facts."""
    facts = invented_facts(len(base))
    groups = {who: [fact for fact in facts if fact.publisher == who] for who in PUBLISHERS}
    return Repetition(
        **dict(_curves(facts, base, adapter, seed)),
        publishers={who: _curves(some, base, adapter, seed) for who, some in groups.items() if some},
    )


def _curves(facts: Sequence[Fact], base: Beliefs, adapter: Beliefs, seed: int) -> Curves:
    before, after = ([found[fact.id] for fact in facts] for found in (base, adapter))
    return Curves(
        facts=len(facts),
        base=_curve(before, seed),
        adapter=_curve(after, seed),
        difference={
            copies: paired_difference(_probabilities(before, place), _probabilities(after, place), seed)
            for place, copies in enumerate(COPIES)
        },
        removed=share_removed(_shifts(before), _shifts(after), seed),
    )


def _curve(found: Sequence[LogOdds], seed: int) -> CurveOfModel:
    return CurveOfModel(
        curve={
            copies: CurvePoint(
                probability=mean_of(_probabilities(found, place), seed),
                log_odds=mean_of([odds[place] for odds in found], seed),
            )
            for place, copies in enumerate(COPIES)
        },
        shift=mean_of(_shifts(found), seed),
    )


def _probabilities(found: Sequence[LogOdds], place: int) -> list[float]:
    return [confidence(odds[place], 0.0) for odds in found]


def _shifts(found: Sequence[LogOdds]) -> list[float]:
    return [odds[0] - odds[-1] for odds in found]


def fact_rows(found: Beliefs) -> Iterator[SampleRow]:
    """Return a row for each fact and number of copies."""
    for fact in invented_facts(len(found)):
        for copies, odds in zip(COPIES, found[fact.id], strict=True):
            yield SampleRow(
                "repetition",
                f"{fact.id}:{copies}",
                "measured",
                confidence(odds, 0.0),
                fact.ask(copies),
                details={
                    "log_odds": odds,
                    "original": fact.right,
                    "copied": fact.copied,
                    "publisher": fact.publisher,
                    "original_first": fact.original_first,
                },
            )
