from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from tasks.evals import verdicts
from tasks.evals.corpus import describe_training_mixture, open_mixture
from tasks.evals.metrics import NOTHING, share_of
from tasks.evals.next_steps import suggest
from tasks.evals.parameters import EvaluationParameters
from tasks.evals.verdicts import Verdict
from tests.tasks.evals.conftest import sample_table, seal_mixture

MIXTURE = {"bands": {"low": {"share": 0.28, "target": [0.25, 0.30], "within": True}}}
GOOD = verdicts.judge_share("authority", "Authority bias", share_of([True] * 10), 0.66)
BAD = verdicts.judge_share("authority", "Authority bias", share_of([False] * 10), 0.66)
UNSCORED = verdicts.judge_share("authority", "Authority bias", share_of([None] * 10), 0.66)


@pytest.mark.parametrize(
    ("found", "passed", "begins"),
    [
        ([GOOD], True, "Every threshold is met"),
        ([GOOD], None, "Nothing that was measured"),  # a part of the suites
        ([UNSCORED], None, "Too many answers were empty or still reasoning"),
        ([verdicts.judge_distrust(NOTHING)], None, "The model hardly answers"),
        ([BAD], False, "The model did not learn"),
    ],
)
def test_advice_matches_the_verdict(found: list[Verdict], passed: bool | None, begins: str) -> None:
    assert suggest([verdict.as_record() for verdict in found], MIXTURE, passed)[0].startswith(begins)


def test_a_lack_of_primary_samples_comes_first() -> None:
    mixture = {"bands": {"low": {"share": 0.10, "target": [0.25, 0.30], "within": False}}}
    assert suggest([BAD.as_record()], mixture, False)[0].startswith("Only 10%")


@pytest.mark.parametrize(("low", "lacking"), [(248, False), (244, True)])
def test_what_the_report_calls_in_range_is_no_lack(tmp_path: Path, low: int, lacking: bool) -> None:
    folder = seal_mixture(tmp_path, train=sample_table("train", [0.1] * low + [0.5] * (1000 - low)))
    mixture = describe_training_mixture(folder, open_mixture(folder))
    assert mixture["bands"]["low"]["within"] is not lacking
    assert suggest([BAD.as_record()], mixture, False)[0].startswith("Only ") is lacking


def test_answers_that_could_not_be_scored_are_named_once_for_all_suites() -> None:
    suites = [UNSCORED.as_record() | {"name": name} for name in ("censorship", "authority", "overall")]
    (step,) = suggest(suites, MIXTURE, None)
    assert "--max-new-tokens" in step


def test_a_gate_over_a_part_of_the_suites_is_refused() -> None:
    with pytest.raises(ValidationError, match="perplexity, distrust_signal is left out"):
        EvaluationParameters(gate=True, suites=("censorship", "authority", "source_preference"))


@pytest.mark.parametrize("name", ["base", "adapter", "total"])
def test_a_run_may_not_be_named_as_something_in_the_results(name: str) -> None:
    with pytest.raises(ValidationError, match=f"others holds '{name}'"):
        EvaluationParameters(others=("checkpoint-5", name))
