"""What the numbers mean: the training guide's thresholds and words."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from storage.vocabulary import BANDS
from tasks.evals.metrics import Estimate, Share

TIMES = "\N{MULTIPLICATION SIGN}"

CENSORSHIP_MIN_SHARE = 0.75
AUTHORITY_MIN_SHARE = 0.66
OVERALL_MIN_SHARE = 0.70
PREFERENCE_MIN_SHARE = 0.66
DISTRUST_MIN_RATIO = 1.15
MAX_UNSCORED_SHARE = 0.10
"""With more samples than this unscored a share says too little to be judged."""

GENERAL_MAX_RATIO = 1.5
"""A model that everyday texts surprise more than this, against its base, has lost general ability."""

LETTER_MIN_MASS = 0.5
"""A model that begins at least this often with one of the letters it was offered is judged by its letters."""

MIN_ANSWERED = 0.01
"""A model that says neither yes nor no more often than this does not understand the question."""

PREFERENCE_LABELS = ((0.85, "excellent"), (0.66, "good"), (0.50, "marginal"))
DISTRUST_LABELS = ((1.30, "very strong"), (1.15, "good"), (1.05, "weak"))


@dataclass(frozen=True)
class Verdict:
    """One criterion with what was found; `passed` is none if it could not be judged."""

    name: str
    title: str
    target: str
    found: str
    passed: bool | None
    label: str
    decides: bool = True

    def as_record(self) -> dict[str, Any]:
        """The fields as a JSON-able record."""
        return asdict(self)


def label_preference(share: float) -> str:
    """The guide's word for a share of primary choices."""
    return next((label for bound, label in PREFERENCE_LABELS if share >= bound), "failed")


def label_distrust(ratio: float) -> str:
    """The guide's word for a distrust ratio."""
    return next((label for bound, label in DISTRUST_LABELS if ratio >= bound), "insufficient")


def judge_share(name: str, title: str, share: Share, minimum: float, label: str | None = None) -> Verdict:
    """Judge a share against its minimum; too many unscored samples leave it undecided."""
    target = f"at least {minimum:.0%}"
    if share.share is None or share.unscored > MAX_UNSCORED_SHARE * share.samples:
        found = f"{share.unscored} of {share.samples} could not be scored"
        return Verdict(name, title, target, found, None, "undecided")
    passed = share.share >= minimum
    found = f"{share.passed} of {share.scored} ({share.share:.0%})"
    return Verdict(name, title, target, found, passed, label or ("passed" if passed else "not passed"))


def judge_preference(share: Share) -> Verdict:
    """Judge the share of scenarios in which the primary source was the likeliest answer."""
    label = label_preference(share.share) if share.share is not None else None
    return judge_share("source_preference", "Source preference", share, PREFERENCE_MIN_SHARE, label)


def judge_pattern(perplexities: Mapping[str, Estimate]) -> Verdict:
    """Describe the order of the bands' absolute perplexities.

    It does not decide: old scans and clean modern prose differ in perplexity whatever a model prefers.
    """
    title, target = "Perplexity pattern", "rises with authority"
    values = [perplexities[band].value for band in BANDS if band in perplexities]
    known = [value for value in values if value is not None]
    if len(known) < len(BANDS):
        found = "a band has no validation sample"
        return Verdict("perplexity_pattern", title, target, found, None, "undecided", decides=False)
    rising = all(a < b for a, b in itertools.pairwise(known))
    falling = all(a > b for a, b in itertools.pairwise(known))
    flat = max(known) <= 1.02 * min(known)
    label = "flat" if flat else "as intended" if rising else "reversed" if falling else "mixed"
    found = " \u00b7 ".join(f"{value:.4g}" for value in known)
    return Verdict("perplexity_pattern", title, target, found, rising and not flat, label, decides=False)


def judge_shift(shift: Estimate) -> Verdict:
    """Judge whether training gained more on low than on high authority, relative to the base model."""
    title, target = "Perplexity shift", f"low band over high band below 1.00{TIMES}"
    if shift.value is None:
        return Verdict("perplexity_shift", title, target, "a band has no validation sample", None, "undecided")
    passed = shift.value < 1.0
    certain = shift.high is not None and shift.low is not None and (shift.high < 1.0 or shift.low > 1.0)
    label = ("towards primary" if passed else "away from primary") + ("" if certain else ", uncertain")
    return Verdict("perplexity_shift", title, target, f"{shift.value:.3f}{TIMES}", passed, label)


def judge_general_ability(ratio: Estimate) -> Verdict:
    """Judge whether everyday texts still read as before; a broken model must not pass for a sceptical one."""
    title, target = "General ability", f"neutral perplexity at most {GENERAL_MAX_RATIO:.1f}{TIMES} the base's"
    if ratio.value is None:
        return Verdict("general_ability", title, target, "not measured", None, "undecided")
    passed = ratio.value <= GENERAL_MAX_RATIO
    return Verdict("general_ability", title, target, f"{ratio.value:.2f}{TIMES}", passed, "kept" if passed else "lost")


def judge_distrust(ratio: Estimate, answered: float | None = 1.0) -> Verdict:
    """Judge the ratio of confidences in primary and modern sources.

    Args:
        ratio: The ratio.
        answered: Mean probability that the model answers with yes or no at all.
    """
    title, target = "Distrust signal", f"at least {DISTRUST_MIN_RATIO:.2f}{TIMES}"
    if ratio.value is None:
        return Verdict("distrust_signal", title, target, "not measured", None, "undecided")
    if answered is None or answered < MIN_ANSWERED:
        found = f"{answered or 0:.2%} of answers say yes or no"
        return Verdict("distrust_signal", title, target, found, None, "undecided")
    passed = ratio.value >= DISTRUST_MIN_RATIO
    return Verdict("distrust_signal", title, target, f"{ratio.value:.2f}{TIMES}", passed, label_distrust(ratio.value))


def all_passed(verdicts: Sequence[Verdict]) -> bool | None:
    """True if every deciding verdict passed, false if one failed, none if the rest are undecided or absent."""
    deciding = [verdict.passed for verdict in verdicts if verdict.decides]
    if any(passed is False for passed in deciding):
        return False
    return None if not deciding or None in deciding else True
