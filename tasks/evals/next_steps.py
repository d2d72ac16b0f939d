"""What to do about a verdict that was missed: the training guide's troubleshooting, in this project's terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_ON_FAILURE: dict[str, str] = {
    "censorship": "The base model may be no uncensored one: check that it is the abliterated version of your preset "
    "(`--model`). This is a matter of the base model more than of the training.",
    "authority": "The model did not learn to ask for the evidence: check the shares of the mixture below, train longer "
    "(`--max-steps 15000`), then try a later checkpoint (`--others checkpoint-N` compares several).",
    "overall": "Answers that are short or generic are a sign of too few steps: look at the loss below, and read the "
    "answers that failed before you change anything.",
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
_ON_UNDECIDED: dict[str, str] = {
    "censorship": _FEW_ANSWERS,
    "authority": _FEW_ANSWERS,
    "overall": _FEW_ANSWERS,
    "distrust_signal": "The model hardly answers with yes or no, so its distrust could not be measured: a model that "
    "was tuned to chat is needed for that.",
    "perplexity_shift": "A band has no validation sample: rebalance with more documents of it.",
}
_ON_OPEN = (
    "Nothing that was measured is below its threshold, but not everything could be judged: see the verdicts that are "
    "undecided, and evaluate with all suites before you export."
)
_ON_SUCCESS = (
    "Every threshold is met. Read the answers below all the same, then export: `python -m flows export-model`."
)


def suggest(verdicts: Sequence[Mapping[str, Any]], mixture: Mapping[str, Any], passed: bool | None) -> list[str]:
    """List what to do next, the most telling first; never empty.

    Args:
        verdicts: Records of the verdicts.
        mixture: What is known of the training mixture; see `tasks.evals.corpus.describe_training_mixture`.
        passed: The verdict over all of them; none: undecided.
    """
    missed = [verdict for verdict in verdicts if verdict["decides"] and verdict["passed"] is not True]
    steps = []
    low = mixture["bands"]["low"]
    if missed and low["share"] < low["target"][0] and not low["within"]:
        steps.append(
            f"Only {low['share']:.0%} of the training samples are of low authority (target {low['target'][0]:.0%} to "
            f"{low['target'][1]:.0%}): download more primary sources and rebalance before you train again."
        )
    for verdict in missed:
        advice = _ON_FAILURE if verdict["passed"] is False else _ON_UNDECIDED
        text = advice.get(verdict["name"])
        if text and text not in steps:
            steps.append(text)
    return steps or [_ON_SUCCESS if passed else _ON_OPEN]
