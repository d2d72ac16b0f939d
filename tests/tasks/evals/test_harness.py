from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from storage.errors import ParameterError, PrerequisiteError
from tasks.evals.harness import cut_at, run_tasks
from tasks.evals.model_under_test import OptionScore, Sample, TextLikelihood


class Table:
    """Knows some sums, is sure of a wrong answer to one, and unsure of the last."""

    def score_options(self, pairs: Sequence[tuple[str, str]], *, plain: bool = False) -> list[OptionScore]:
        sure = {"1 + 1 =": " 2", "2 + 2 =": " 4", "3 + 3 =": " 7"}
        return [OptionScore(-0.1 if sure.get(p.strip()) == o else -1.0, 1, len(o)) for p, o in pairs]

    def generate(self, prompts: Sequence[str], max_new_tokens: int, *, plain: bool = False) -> list[str]:
        return [" 2\nQ" for _ in prompts]

    def score_samples(self, samples: Sequence[Sample], max_seq_length: int) -> list[TextLikelihood]:
        raise NotImplementedError

    def negative_log_likelihoods(self, texts: Sequence[str], max_seq_length: int) -> list[TextLikelihood]:
        return [TextLikelihood(1.0, 1) for _ in texts]


def task_of(folder: Path, kind: str) -> dict[str, Any]:
    rows = [{"q": f"{n} + {n} =", "choices": [str(2 * n), str(2 * n + 1)], "label": 0} for n in (1, 2, 3, 4)]
    path = folder / "sums.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    common = {
        "task": f"sums_{kind}",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(path)}},
        "test_split": "test",
        "doc_to_text": "{{q}}",
        "num_fewshot": 0,
        "metadata": {"version": 1},
    }
    if kind == "choice":
        return common | {
            "output_type": "multiple_choice",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "label",
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        }
    return common | {
        "output_type": "generate_until",
        "doc_to_target": "{{choices[0]}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8},
        "filter_list": [{"name": "strip", "filter": [{"function": "remove_whitespace"}]}],
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }


@pytest.mark.parametrize(
    ("kind", "metric", "share"), [("choice", "acc,none", 0.75), ("text", "exact_match,strip", 0.25)]
)
def test_tasks_are_scored_by_the_library(tmp_path: Path, kind: str, metric: str, share: float) -> None:
    pytest.importorskip("lm_eval", reason="needs the extra lm-eval")
    found = run_tasks(Table(), [task_of(tmp_path, kind)], None, 1)
    assert found[f"sums_{kind}"][metric] == share


def test_an_unknown_task_is_told() -> None:
    pytest.importorskip("lm_eval", reason="needs the extra lm-eval")
    with pytest.raises(ParameterError, match="no_such_task"):
        run_tasks(Table(), ["no_such_task"], None, 1)


def test_without_the_library_it_says_what_to_install() -> None:
    try:
        import lm_eval  # noqa: F401
    except ImportError:
        with pytest.raises(PrerequisiteError, match="--extra lm-eval"):
            run_tasks(Table(), ["arc_easy"], None, 1)


@pytest.mark.parametrize(
    ("text", "stops", "cut"),
    [("a\nb", ["\n"], "a"), ("abc", ["c", "b"], "a"), ("abc", [], "abc"), ("abc", [""], "abc")],
)
def test_answers_end_at_the_first_stop(text: str, stops: list[str], cut: str) -> None:
    assert cut_at(text, stops) == cut
