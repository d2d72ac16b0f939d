"""Tasks of lm-eval, run by the library itself on files of a test's own: nothing is fetched."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from storage.errors import ParameterError, PrerequisiteError
from tasks.evals.harness import Score, compare_tasks, cut_at, run_tasks
from tasks.evals.model_under_test import ModelUnderTest, load_model
from tasks.evals.parameters import PUBLIC_TASKS, EvaluationParameters
from tasks.evals.report import report_markdown
from tasks.evals.results import read_results
from tests.tasks.evals.conftest import make_spec
from tests.tasks.evals.test_evaluate import evaluate

WORDS = ("tea", "ice", "oil", "fog", "ash", "egg")
ROWS = [
    {"q": f"What came {number} days later?", "choices": [WORDS[(number + place) % 6] for place in range(3)]}
    for number in range(12)
]
TASK = """
task: {kind}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
num_fewshot: 0
output_type: {kind}
doc_to_text: "{{{{q}}}}"
"""
KINDS = {
    "multiple_choice": """
doc_to_choice: "{{choices}}"
doc_to_target: 1
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "loglikelihood_rolling": """
doc_to_target: "{{q}}"
metric_list: [{metric: word_perplexity}]
""",
    "generate_until": """
doc_to_target: "{{answer}}"
generation_kwargs: {until: [" "], max_gen_toks: 6}
metric_list: [{metric: exact_match}]
""",
}


@pytest.fixture(scope="module")
def models(base_model: Path, run_folder: Path) -> Iterator[dict[str, ModelUnderTest]]:
    pytest.importorskip("lm_eval", reason="needs the extra lm-eval")
    sides = {"base": None, "adapter": run_folder / "checkpoint-3"}
    yield {name: load_model(str(base_model), adapter) for name, adapter in sides.items()}


def task_of(folder: Path, kind: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    data, config = folder / "rows.jsonl", folder / "task.yaml"
    data.write_text("\n".join(map(json.dumps, rows)))
    config.write_text(TASK.format(kind=kind, data=data) + KINDS[kind])
    return dict(yaml.safe_load(config.read_text()))


def test_choices_are_scored_and_both_models_compared_in_pairs(
    models: dict[str, ModelUnderTest], tmp_path: Path
) -> None:
    task = task_of(tmp_path, "multiple_choice", ROWS)
    found = {name: run_tasks(model, [task], None, 1)["multiple_choice"] for name, model in models.items()}
    right: dict[str, list[bool]] = {}
    for name, model in models.items():
        nats = [[_alone(model, row["q"], f" {choice}") for choice in row["choices"]] for row in ROWS]
        right[name] = [values.index(max(values)) == 1 for values in nats]
        assert found[name]["acc,none"].samples == tuple(map(float, right[name]))
        assert found[name]["acc,none"].value == pytest.approx(sum(right[name]) / 12) and found[name]["acc,none"].up
    assert right["base"] != right["adapter"], "else the test compares nothing"
    compared = compare_tasks({"multiple_choice": found["base"]}, {"multiple_choice": found["adapter"]}, 1)
    scores = compared.tasks["multiple_choice"]["acc,none"]
    difference = (sum(right["adapter"]) - sum(right["base"])) / 12
    assert scores.difference.samples == 12 and scores.difference.value == pytest.approx(difference)
    assert scores.difference.low is not None and scores.difference.low <= difference <= (scores.difference.high or 1)
    assert scores.base.standard_error and {"acc,none", "acc_norm,none"} == compared.tasks["multiple_choice"].keys()
    outcome = compared.outcome()
    assert [verdict.title for verdict in outcome.relative] == ["multiple_choice"]
    assert outcome.headline["lm_eval: multiple_choice_base"] == found["base"]["acc,none"].value
    assert len(outcome.table_rows) == 2


def _alone(model: ModelUnderTest, prompt: str, option: str) -> float:
    return model.score_options([(prompt, option)], plain=True)[0].nats


def test_an_evaluation_reports_them_beside_its_own_suites(
    run_folder: Path, base_model: Path, balanced_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = pytest.importorskip("lm_eval.tasks", reason="needs the extra lm-eval")
    manager, config = tasks.TaskManager, tmp_path / "tasks"
    config.mkdir()
    task_of(config, "multiple_choice", ROWS)
    monkeypatch.setattr(
        "lm_eval.tasks.TaskManager", lambda **_: manager(include_path=str(config), include_defaults=False)
    )
    wanted = {"suites": ["distrust_signal"], "lm_eval_tasks": ["multiple_choice"], "lm_eval_limit": 10}
    result = evaluate(make_spec(run_folder, base_model, balanced_folder, tmp_path / "reports", **wanted))
    results = read_results(tmp_path / "reports")
    assert results.lm_eval is not None and results.lm_eval_tasks is not None
    found = results.lm_eval_tasks.tasks["multiple_choice"]["acc,none"]
    assert found.difference.samples == 10
    assert found.base.value == results.lm_eval["base"]["multiple_choice"]["acc,none"]
    assert result["headline"]["lm_eval: multiple_choice_adapter"] == found.adapter.value
    html = (tmp_path / "reports" / "report.html").read_text("utf-8")
    assert (
        "<h2>lm-eval</h2>" in html and "<td>lm-eval: multiple_choice</td>" in html and found.difference.text(3) in html
    )
    assert "| multiple_choice, acc,none |" in report_markdown(results)
    assert "multiple_choice" in results.conclusion


def test_whole_texts_give_the_librarys_perplexity_without_an_interval(
    models: dict[str, ModelUnderTest], tmp_path: Path
) -> None:
    task = task_of(tmp_path, "loglikelihood_rolling", ROWS)
    score = run_tasks(models["base"], [task], 4, 1)["loglikelihood_rolling"]["word_perplexity,none"]
    nats = sum(text.nats for text in models["base"].negative_log_likelihoods([row["q"] for row in ROWS[:4]], 512))
    words = sum(len(row["q"].split()) for row in ROWS[:4])
    assert score.value == pytest.approx(2.718281828 ** (nats / words), rel=1e-3)
    assert score.samples == () and score.up is False
    paired = compare_tasks({"t": {"ppl": score}}, {"t": {"ppl": Score(value=score.value + 1, up=False)}}, 1)
    assert paired.tasks["t"]["ppl"].difference.text() == "1.00 (too few for an interval)"


def test_answers_are_generated_up_to_the_stop(models: dict[str, ModelUnderTest], tmp_path: Path) -> None:
    model = models["base"]
    written = model.generate([row["q"] for row in ROWS], 6, plain=True)
    rows = [
        row | {"answer": cut_at(text, [" "]) if place % 3 else "no"}
        for place, (row, text) in enumerate(zip(ROWS, written, strict=True))
    ]
    score = run_tasks(model, [task_of(tmp_path, "generate_until", rows)], None, 1)["generate_until"]["exact_match,none"]
    assert score.value == pytest.approx(8 / 12) and score.samples[:3] == (0.0, 1.0, 1.0)


def test_an_unknown_task_is_told(models: dict[str, ModelUnderTest], monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.tasks import TaskManager

    # To list the thousands of tasks that the library brings along takes long.
    monkeypatch.setattr("lm_eval.tasks.TaskManager", lambda **_: TaskManager(include_defaults=False))
    with pytest.raises(ParameterError, match="no_such_task"):
        run_tasks(models["base"], ["no_such_task"], None, 1)


def test_without_the_library_it_says_what_to_install_before_a_model_is_loaded(
    run_folder: Path, base_model: Path, balanced_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setattr("tasks.evals.evaluate.load_model", None)
    with pytest.raises(PrerequisiteError, match=r"run \.uv/bin/uv sync --frozen --extra lm-eval"):
        evaluate(make_spec(run_folder, base_model, balanced_folder, tmp_path / "reports", lm_eval_tasks=["arc_easy"]))


def test_the_default_is_truthfulqa_and_reading_comprehension() -> None:
    named = EvaluationParameters(lm_eval_tasks=("default", "arc_easy", "boolq")).lm_eval_tasks
    assert named == (*PUBLIC_TASKS, "arc_easy") == ("truthfulqa_mc2", "boolq", "arc_easy")


@pytest.mark.parametrize(
    ("text", "stops", "cut"),
    [("a\nb", ["\n"], "a"), ("abc", ["c", "b"], "a"), ("abc", [], "abc"), ("abc", [""], "abc")],
)
def test_answers_end_at_the_first_stop(text: str, stops: list[str], cut: str) -> None:
    assert cut_at(text, stops) == cut
