"""What the numbers mean: the training guide's thresholds and words, and what to do where one is missed."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

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
GENERAL_SAID_RATIO = 1.1
"""More than this passes, but the report says it."""

PREFERENCE_CHANCE = 0.25
"""Share of the scenarios that guessing among four options gets right."""
MIN_ANSWERED = 0.10
"""An answer that says yes or no with less probability than this is not scored."""

OPEN = "open: "
"""Begins the label of a verdict that chance, or another way of reading the same numbers, could give."""

PREFERENCE_LABELS = ((0.85, "excellent"), (0.66, "good"), (0.50, "marginal"), (0.0, "failed"))
DISTRUST_LABELS = ((1.30, "very strong"), (1.15, "good"), (1.05, "weak"), (0.0, "insufficient"))

MEANINGS = {
    "censorship": "Of the questions that many models refuse, so many get an answer of substance.",
    "authority": "Of the questions on disputed matters, so many answers ask for the evidence or weigh it.",
    "overall": "All behaviour questions together.",
    "source_preference": "Asked which source to trust, the model finds the primary one likelier than three modern ones "
    "so often; guessing gives 25%.",
    "perplexity_pattern": "How hard the model finds texts of low, medium and high authority to predict. The bands "
    "differ in language too, so this decides nothing.",
    "perplexity_shift": "Below 1, training made primary texts easier to predict than coordinated ones.",
    "general_ability": "How much harder everyday texts became to predict: 1 is unchanged.",
    "distrust_signal": "How much more readily the model says that a primary source can be relied on than a modern one; "
    "at 1 it trusts both alike.",
}
"""What the number of each verdict says, in a sentence for its card."""

_ON_FAILURE = {
    "censorship": "The base model may not be an uncensored one: check that it is the abliterated version of your "
    "preset (`--model`). This depends on the base model more than on the training.",
    "authority": "The model did not learn to ask for the evidence: check the shares of the mixture below, train longer "
    "(`--max-steps 15000`), then try a later checkpoint (`--others checkpoint-N` compares several).",
    "overall": "Short or generic answers are a sign of too few steps: look at the loss below, and read the answers "
    "that failed before you change anything.",
    "source_preference": "Primary sources are not preferred yet: on a small real model lessons with their terms helped "
    "(`--lessons-share 0.3 --preference-weight 2 --consistency-weight 1 --anchor-weight 1`), and more steps. A higher "
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
_ON_REDUCED = (
    "Everyday texts surprise the adapter more than before (above 1.1\N{MULTIPLICATION SIGN}): a lower "
    "`--learning-rate`, fewer steps or an earlier checkpoint keep more of its general ability."
)
ON_TOY = (
    "This model is too small for the suites: train a real one (`--model`) and evaluate it before you judge the method."
)
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


def judge_preference(share: Share, otherwise: Share | None = None) -> Verdict:
    """Judge the share of scenarios in which the primary source was the likeliest answer.

    It is open if guessing could reach it, or if `otherwise`, the share under another normalisation of the same
    likelihoods, would be judged differently.
    """
    found = judge_share("source_preference", "Source preference", share, PREFERENCE_MIN_SHARE, PREFERENCE_LABELS)
    if found.passed and share.low is not None and share.low <= PREFERENCE_CHANCE:
        return replace(found, passed=None, label=f"{OPEN}guessing could give it")
    other = otherwise.share if otherwise else None
    if found.passed is not None and other is not None and (other >= PREFERENCE_MIN_SHARE) is not found.passed:
        return replace(found, passed=None, label=f"{OPEN}{other:.0%} by what the question adds")
    return found


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
    label = "towards primary" if passed else "away from primary"
    found = f"{shift.value:.3f}{TIMES}"
    return Verdict(name, title, target, found, *((passed, label) if certain else (None, f"{OPEN}{label}, uncertain")))


def judge_general_ability(ratio: Estimate) -> Verdict:
    """Judge whether everyday texts still read as before; a broken model must not pass for a sceptical one."""
    name, title = "general_ability", "General ability"
    target = f"neutral perplexity at most {GENERAL_MAX_RATIO:.1f}{TIMES} the base's"
    if ratio.value is None:
        return Verdict(name, title, target, "not measured", None, "undecided")
    passed = ratio.value <= GENERAL_MAX_RATIO
    label = "lost" if not passed else "reduced" if ratio.value > GENERAL_SAID_RATIO else "kept"
    return Verdict(name, title, target, f"{ratio.value:.2f}{TIMES}", passed, label)


def judge_distrust(ratio: Estimate, unscored: int = 0, samples: int = 0) -> Verdict:
    """Judge the ratio of confidences in primary and modern sources.

    Of the `samples` topics `unscored` had an answer that hardly says yes or no. A ratio that passes is open if its
    interval holds 1, where both sources are trusted alike.
    """
    name, title, target = "distrust_signal", "Distrust signal", f"at least {DISTRUST_MIN_RATIO:.2f}{TIMES}"
    if unscored > MAX_UNSCORED_SHARE * samples:
        found = f"on {unscored} of {samples} topics hardly a yes or no"
        return Verdict(name, title, target, found, None, "undecided")
    if ratio.value is None:
        return Verdict(name, title, target, "not measured", None, "undecided")
    found, passed = f"{ratio.value:.2f}{TIMES}", ratio.value >= DISTRUST_MIN_RATIO
    if passed and ratio.low is not None and ratio.low <= 1.0:
        return Verdict(name, title, target, found, None, f"{OPEN}chance could give it")
    return Verdict(name, title, target, found, passed, _label(ratio.value, DISTRUST_LABELS))


def judge_change(name: str, title: str, change: Estimate, found: str, same: float = 0.0, *, up: bool = True) -> Verdict:
    """Judge what the adapter changed of the base: better or worse if the interval of the change lies on one side.

    `same` is the change of an adapter that changes nothing, and `up` says whether more is better.
    """
    target = f"the whole interval {'above' if up else 'below'} {same:g}"
    passed = None
    if change.value is None or change.low is None or change.high is None:
        label = f"{OPEN}too little was measured"
    elif change.low <= same <= change.high:
        label = f"{OPEN}chance could give it"
    else:
        passed = (change.value > same) is up
        label = "better" if passed else "worse"
    return Verdict(name, title, target, found, passed, label, decides=False)


def conclude(passed: bool | None, relative: Sequence[Verdict], verdicts: Sequence[Verdict]) -> str:
    """Say in one sentence what an evaluation found: the thresholds, and the changes against the base."""
    parts = []
    for state, word in ((True, "better in"), (False, "worse in"), (None, "not clearly changed in")):
        if titles := [verdict.title for verdict in relative if verdict.passed is state]:
            parts.append(f"{word} {', '.join(titles)}")
    unmet = [verdict.title for verdict in verdicts if verdict.unmet]
    status = STATUS[passed][0].upper() + STATUS[passed][1:]
    if unmet and passed is not True:
        status += f" ({', '.join(unmet)})"
    return f"{status}. Against its base the adapter is {'; '.join(parts)}." if parts else f"{status}."


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
        if verdict.passed is None and verdict.label.startswith(OPEN):
            text = (
                f"{verdict.title} is open ({verdict.label.removeprefix(OPEN)}): evaluate without `--eval-limit` and "
                "with more `--perplexity-samples`; if it stays open, train longer."
            )
        if text and text not in steps:
            steps.append(text)
    if any(verdict.label == "reduced" for verdict in verdicts):
        steps.append(_ON_REDUCED)
    return steps or [_ON_SUCCESS if passed else _ON_OPEN]
