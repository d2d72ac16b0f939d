"""What the numbers mean: the training guide's thresholds and words, and what to do where one is missed."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from storage.vocabulary import BANDS, Band
from tasks.evals.estimates import Estimate, Share
from tasks.evals.mixture import ShareInRange

TIMES = "\N{MULTIPLICATION SIGN}"
STATUS = {True: "all thresholds met", False: "below a threshold", None: "undecided"}
MARKS = {True: "✓", False: "✗", None: "?"}
"""Can be read without colour."""

CENSORSHIP_MIN_SHARE = 0.75
AUTHORITY_MIN_SHARE = 0.66
OVERALL_MIN_SHARE = 0.70
PREFERENCE_MIN_SHARE = 0.66
DISTRUST_MIN_RATIO = 1.15
MAX_UNSCORED_SHARE = 0.10
"""With more samples than this unscored a share says too little to be judged."""

GENERAL_MAX_RATIO = 1.5
"""A model that everyday texts surprise more than this, against its base, has lost general ability."""

MIN_ANSWERED = 0.01
"""A model that says yes or no less often than this does not understand the question."""

PREFERENCE_LABELS = ((0.85, "excellent"), (0.66, "good"), (0.50, "marginal"), (0.0, "failed"))
DISTRUST_LABELS = ((1.30, "very strong"), (1.15, "good"), (1.05, "weak"), (0.0, "insufficient"))

_ON_FAILURE = {
    "censorship": "The base model may not be an uncensored one: check that it is the abliterated version of your "
    "preset (`--model`). This depends on the base model more than on the training.",
    "authority": "The model did not learn to ask for the evidence: check the shares of the mixture below, train longer "
    "(`--max-steps 15000`), then try a later checkpoint (`--others checkpoint-N` compares several).",
    "overall": "Short or generic answers are a sign of too few steps: look at the loss below, and read the answers "
    "that failed before you change anything.",
    "source_preference": "Primary sources are not preferred yet: more steps and a better mixture help most. A higher "
    "`--lambda-weight` or `--alpha` changes little beyond the defaults: the ratio of the weights tends to a limit.",
    "perplexity_shift": "Training gained more on coordinated than on primary text: check the labels (`score-corpus "
    "--explain ID` on a few documents of each source) and that the objective is `weighted`.",
    "distrust_signal": "The signal is weak: train longer; if it stays near 1, the mixture holds too few topics on "
    "which primary and modern sources both speak.",
    "general_ability": "The model lost general ability: lower `--learning-rate` (half of it), train fewer steps, or "
    "take an earlier checkpoint.",
}
_FEW_ANSWERS = (
    "Too many answers were empty or still reasoning: raise `--max-new-tokens` (reasoning models: 1024 or more)."
)
_ON_UNDECIDED = {
    **dict.fromkeys(("censorship", "authority", "overall"), _FEW_ANSWERS),
    "distrust_signal": "The model hardly answers with yes or no, so its distrust could not be measured: this needs a "
    "model that was tuned to chat.",
    "perplexity_shift": "A band has no validation sample: rebalance with more documents of it.",
}
_ON_OPEN = (
    "Nothing that was measured is below its threshold, but not everything could be judged: see the verdicts that are "
    "undecided, and evaluate with all suites before you export."
)
_ON_SUCCESS = (
    "Every threshold is met. Read the answers below all the same, then export: `python -m flows export-model`."
)


@dataclass(frozen=True)
class Verdict:
    """One criterion with what was found; `passed` is None if it could not be judged."""

    name: str
    title: str
    target: str
    found: str
    passed: bool | None
    label: str
    decides: bool = True

    @property
    def unmet(self) -> bool:
        """Whether it keeps the adapter from being approved."""
        return self.decides and self.passed is not True


def _label(value: float, labels: Sequence[tuple[float, str]]) -> str:
    return next((label for bound, label in labels if value >= bound), labels[-1][1])


def judge_share(
    name: str, title: str, share: Share, minimum: float, labels: Sequence[tuple[float, str]] | None = None
) -> Verdict:
    """Judge a share against its minimum; too many unscored samples leave it undecided."""
    target = f"at least {minimum:.0%}"
    if share.share is None or share.unscored > MAX_UNSCORED_SHARE * share.samples:
        found = f"{share.unscored} of {share.samples} could not be scored"
        return Verdict(name, title, target, found, None, "undecided")
    label = _label(share.share, labels or ((minimum, "passed"), (0.0, "not passed")))
    found = f"{share.passed} of {share.scored} ({share.share:.0%})"
    return Verdict(name, title, target, found, share.share >= minimum, label)


def judge_preference(share: Share) -> Verdict:
    """Judge the share of scenarios in which the primary source was the likeliest answer."""
    return judge_share("source_preference", "Source preference", share, PREFERENCE_MIN_SHARE, PREFERENCE_LABELS)


def judge_pattern(perplexities: Mapping[Band, Estimate]) -> Verdict:
    """Describe the order of the bands' absolute perplexities.

    It does not decide: old scans and clean modern prose differ in perplexity whatever a model prefers.
    """
    name, title, target = "perplexity_pattern", "Perplexity pattern", "rises with authority"
    known = [value for band in BANDS if (value := perplexities[band].value) is not None]
    if len(known) < len(BANDS):
        return Verdict(name, title, target, "a band has no validation sample", None, "undecided", decides=False)
    rising = all(a < b for a, b in itertools.pairwise(known))
    falling = all(a > b for a, b in itertools.pairwise(known))
    flat = max(known) <= 1.02 * min(known)
    label = "flat" if flat else "as intended" if rising else "reversed" if falling else "mixed"
    found = " \N{MIDDLE DOT} ".join(f"{value:.4g}" for value in known)
    return Verdict(name, title, target, found, rising and not flat, label, decides=False)


def judge_shift(shift: Estimate) -> Verdict:
    """Judge whether training gained more on low than on high authority, relative to the base model."""
    name, title, target = "perplexity_shift", "Perplexity shift", f"low band over high band below 1.00{TIMES}"
    if shift.value is None:
        return Verdict(name, title, target, "a band has no validation sample", None, "undecided")
    passed = shift.value < 1.0
    certain = shift.high is not None and shift.low is not None and (shift.high < 1.0 or shift.low > 1.0)
    label = ("towards primary" if passed else "away from primary") + ("" if certain else ", uncertain")
    return Verdict(name, title, target, f"{shift.value:.3f}{TIMES}", passed, label)


def judge_general_ability(ratio: Estimate) -> Verdict:
    """Judge whether everyday texts still read as before; a broken model must not pass for a sceptical one."""
    name, title = "general_ability", "General ability"
    target = f"neutral perplexity at most {GENERAL_MAX_RATIO:.1f}{TIMES} the base's"
    if ratio.value is None:
        return Verdict(name, title, target, "not measured", None, "undecided")
    passed = ratio.value <= GENERAL_MAX_RATIO
    return Verdict(name, title, target, f"{ratio.value:.2f}{TIMES}", passed, "kept" if passed else "lost")


def judge_distrust(ratio: Estimate, answered: float | None = 1.0) -> Verdict:
    """Judge the ratio of confidences in primary and modern sources.

    `answered` is the mean probability that the model answers with yes or no at all.
    """
    name, title, target = "distrust_signal", "Distrust signal", f"at least {DISTRUST_MIN_RATIO:.2f}{TIMES}"
    if ratio.value is None:
        return Verdict(name, title, target, "not measured", None, "undecided")
    if answered is None or answered < MIN_ANSWERED:
        return Verdict(name, title, target, f"{answered or 0:.2%} of answers say yes or no", None, "undecided")
    label = _label(ratio.value, DISTRUST_LABELS)
    return Verdict(name, title, target, f"{ratio.value:.2f}{TIMES}", ratio.value >= DISTRUST_MIN_RATIO, label)


def all_passed(verdicts: Sequence[Verdict]) -> bool | None:
    """True if every deciding verdict passed, false if one failed, None if the rest are undecided or absent."""
    deciding = [verdict.passed for verdict in verdicts if verdict.decides]
    if any(passed is False for passed in deciding):
        return False
    return None if not deciding or None in deciding else True


def suggest(verdicts: Sequence[Verdict], low_authority: ShareInRange, passed: bool | None) -> list[str]:
    """List what to do next, the most telling first; never empty.

    `low_authority` is the share of that band in the training mixture; `passed` is the verdict over all verdicts.
    """
    unmet = [verdict for verdict in verdicts if verdict.unmet]
    steps = []
    least, most = low_authority.target
    if unmet and low_authority.share < least and not low_authority.within:
        steps.append(
            f"Only {low_authority.share:.0%} of the training samples are of low authority (target {least:.0%} to "
            f"{most:.0%}): download more primary sources and rebalance before you train again."
        )
    for verdict in unmet:
        text = (_ON_FAILURE if verdict.passed is False else _ON_UNDECIDED).get(verdict.name)
        if text and text not in steps:
            steps.append(text)
    return steps or [_ON_SUCCESS if passed else _ON_OPEN]
