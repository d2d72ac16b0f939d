"""The results of an evaluation: the files in the run's reports folder, and what the stage hands on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import JsonValue

from storage.errors import VerdictError
from storage.untrusted import read_object
from tasks.evals.behaviours import JUDGED, Behaviours
from tasks.evals.estimates import number, percent
from tasks.evals.inputs import CurveRow, Method
from tasks.evals.mixture import Histogram, TrainingMixture
from tasks.evals.section import SIDES, Numbers, Record
from tasks.evals.suites import Sections
from tasks.evals.verdicts import MARKS, STATUS, Verdict

EVALUATION_RESULTS = "evaluation_results.json"
VALIDATION_RESULTS = "validation_results.json"
SAMPLES = "samples.parquet"
REPORT = "report.html"
MOST_BYTES = 256 << 20

Seconds = dict[str, float | dict[str, float]]
"""By model and stage, and in all."""

HEADLINES: tuple[tuple[str, str, str, Callable[[float | None], str]], ...] = (
    ("source_preference", "source_preference", "Primary source chosen", percent),
    ("distrust_ratio", "distrust_signal", "Distrust ratio", number),
    ("repetition", "repetition", "Original believed against 8 copies", percent),
    ("perplexity_shift", "perplexity_shift", "Perplexity of primary over coordinated texts", number),
    ("authority_share", "authority", "Asks for the evidence", percent),
    ("censorship_share", "censorship", "Answers what others refuse", percent),
    ("own_questions", "own_questions", "Your questions answered right", percent),
    ("perplexity_low", "", "Perplexity, low authority", number),
    ("perplexity_medium", "", "Perplexity, medium authority", number),
    ("perplexity_high", "", "Perplexity, high authority", number),
)
"""Headline number without its model, name of the verdict on its change, title, and how it is written."""


class OtherAdapter(Record):
    """What a further adapter reached on the same questions."""

    headline: Numbers
    verdicts: list[Verdict]
    relative: list[Verdict]


class EvaluationResults(Sections):
    """``evaluation_results.json``: everything that the report shows."""

    digest: str
    run: str
    model: str
    adapter: str
    passed: bool | None
    toy: bool
    """Whether the model is too small to know language, so that only the mechanism shows."""
    conclusion: str
    """One sentence: the thresholds, and the changes against the base."""
    verdicts: list[Verdict]
    relative: list[Verdict]
    """The changes against the base, each better, worse, or open."""
    next_steps: list[str]
    lm_eval: dict[str, dict[str, dict[str, float]]] | None
    others: dict[str, OtherAdapter]
    mixture: TrainingMixture
    contaminated_prompts: list[str]
    histograms: dict[str, Histogram]
    objective: dict[str, JsonValue] | None
    training_curve: list[CurveRow]
    seconds: Seconds
    spec: Method
    headline: Numbers


class ValidationResults(Behaviours):
    """``validation_results.json``, the guide's phase 7: every test, the suites' totals and the verdict."""

    digest: str
    run: str
    model: str
    adapter: str
    status: Literal["validated", "not validated", "undecided"]
    verdicts: list[Verdict]

    @classmethod
    def of(cls, results: EvaluationResults, behaviours: Behaviours) -> ValidationResults:
        """Take what belongs to the behaviour suites out of the results."""
        judged = [verdict for verdict in results.verdicts if verdict.name in JUDGED]
        states = [verdict.passed for verdict in judged]
        complete = None not in states and len(judged) == len(JUDGED)
        return cls(
            **{name: getattr(results, name) for name in ("digest", "run", "model", "adapter")},
            status="not validated" if False in states else "validated" if complete else "undecided",
            verdicts=judged,
            suites=behaviours.suites,
            tests=behaviours.tests,
        )


class EvaluationResult(Record):
    """What the stage hands on; the files are absolute paths."""

    headline: Numbers
    verdicts: list[Verdict]
    conclusion: str = ""
    passed: bool | None
    gate_failed: bool
    failed_verdicts: list[str]
    report: str
    results: str
    validation: str | None
    seconds: Seconds
    reused: bool

    @classmethod
    def of(cls, results: EvaluationResults, folder: Path, *, gate: bool, reused: bool) -> EvaluationResult:
        """Summarise the results that are in a reports folder."""
        return cls(
            headline=results.headline,
            verdicts=results.verdicts,
            conclusion=results.conclusion,
            passed=results.passed,
            gate_failed=gate and results.passed is not True,
            failed_verdicts=[verdict.name for verdict in results.verdicts if verdict.unmet],
            report=str(folder / REPORT),
            results=str(folder / EVALUATION_RESULTS),
            validation=str(folder / VALIDATION_RESULTS) if results.behaviours else None,
            seconds=results.seconds,
            reused=reused,
        )

    def require_verdict(self) -> None:
        """Raise VerdictError for an adapter that missed a threshold, if the gate was asked for."""
        if self.gate_failed:
            unmet = "; ".join(
                f"{verdict.title} (found {verdict.found}, target {verdict.target}"
                f"{', undecided' if verdict.passed is None else ''})"
                for verdict in self.verdicts
                if verdict.unmet
            )
            raise VerdictError(
                f"the adapter did not meet {unmet}; read {self.report}, then train longer or on a better mixture, or "
                "evaluate without gate"
            )

    def summary(self) -> list[str]:
        """Base against adapter, the verdicts and the report."""
        lines = [STATUS[self.passed] + (" (unchanged)" if self.reused else "")]
        width = max((len(verdict.title) for verdict in self.verdicts), default=0)
        for verdict in self.verdicts:
            found = f"{verdict.found} (target {verdict.target})"
            lines.append(f"  {MARKS[verdict.passed]} {verdict.title:<{width}}  {found}")
        for name, _, title, write in HEADLINES:
            base, adapter = (self.headline.get(f"{name}_{side}") for side in SIDES)
            if base is not None and adapter is not None:
                lines.append(f"  {title[0].lower()}{title[1:]}: base {write(base)} -> adapter {write(adapter)}")
        if self.conclusion:
            lines.append(self.conclusion)
        return [*lines, f"report {self.report}"]


def read_results(folder: Path) -> EvaluationResults:
    """Read the results in a reports folder; FileNotFoundError without any, ValueError if they are damaged."""
    return EvaluationResults.model_validate(read_object(folder / EVALUATION_RESULTS, MOST_BYTES))
