from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from storage.errors import ParameterError, PrerequisiteError
from storage.events import read_specification
from tasks.evals.estimates import NO_INTERVAL
from tasks.evals.evaluate import evaluate_run
from tasks.evals.inputs import EvaluationSpec
from tasks.evals.preference import Choice
from tasks.evals.questions import GUIDE_TESTS, QuestionSet
from tasks.evals.report import report_markdown
from tasks.evals.results import read_results
from tasks.evals.section import SAMPLE_SCHEMA
from tasks.evals.suites import Measurements
from tests.tasks.evals.conftest import PARAMETERS, sample_table, seal_mixture


def evaluate(spec: dict[str, Any], **changes: Any) -> dict[str, Any]:
    specification = read_specification(json.dumps(spec | changes, default=str), EvaluationSpec)
    return evaluate_run(specification, lambda event, **fields: None).model_dump()


@pytest.fixture
def results(events: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(events[-1]["results"]).read_text("utf-8"))
    return found


def test_progress_counts_to_its_end_and_the_result_is_last(events: list[dict[str, Any]]) -> None:
    progress = [event for event in events if event["event"] == "progress"]
    assert [event["done"] for event in progress] == list(range(1, 11))
    assert {event["total"] for event in progress} == {10}
    result = events[-1]
    assert result["event"] == "result" and result["reused"] is False and result["gate_failed"] is False
    assert Path(result["report"]).is_file() and result["headline"]["perplexity_low_base"] > 1


def test_validation_results_hold_every_test_for_both_models(events: list[dict[str, Any]]) -> None:
    record = json.loads(Path(events[-1]["validation"]).read_text("utf-8"))
    tests = {test["id"]: test for test in record["tests"]}
    assert len(tests) == 20 and set(GUIDE_TESTS) < tests.keys()
    for model in ("base", "adapter"):
        states = [test[model]["status"] for test in record["tests"]]
        overall = record["suites"]["overall"][model]
        assert overall["passed"] == states.count("pass") and overall["unscored"] == states.count("unscored")
        assert all(test[model]["reason"] for test in record["tests"])
    assert record["suites"]["guide"]["base"]["samples"] == 8
    assert record["status"] in ("not validated", "undecided")
    assert record["model"] == "tiny llama" and record["adapter"] == "checkpoint-3"


def test_evaluation_results_hold_every_measure(results: dict[str, Any]) -> None:
    names = ("censorship", "authority", "overall", "source_preference", "distrust_signal", "general_ability")
    assert {verdict["name"] for verdict in results["verdicts"]} == {*names, "perplexity_shift", "perplexity_pattern"}
    for band in ("low", "medium", "high"):
        record = results["perplexity"]["bands"][band]
        assert record["samples"] == 4 and record["tokens"] > 0
        ratio = record["adapter"]["value"] / record["base"]["value"]
        assert record["ratio"]["value"] == pytest.approx(ratio, rel=1e-6)
        assert record["ratio"]["low"] - 1e-9 <= ratio <= record["ratio"]["high"] + 1e-9
    assert len(results["source_preference"]["scenarios"]) == 10
    signals = results["distrust_signal"]
    assert signals["adapter"]["unscored"] == len(signals["signals"]), "a random model says neither yes nor no"
    assert signals["adapter"]["ratio"]["value"] is None and signals["decoys"]["base"]["value"] is None
    assert {verdict["name"] for verdict in results["relative"]} >= {"source_preference", "repetition"}
    assert all(verdict["decides"] is False for verdict in results["relative"])
    assert results["toy"] is True and results["conclusion"].startswith("Below a threshold (")
    curve = results["repetition"]["base"]["curve"]
    assert list(curve) == ["1", "2", "4", "8"] and 0 < curve["8"]["probability"]["value"] < 1
    shift = curve["1"]["log_odds"]["value"] - curve["8"]["log_odds"]["value"]
    assert results["repetition"]["base"]["shift"]["value"] == pytest.approx(shift)
    assert {who: found["facts"] for who, found in results["repetition"]["publishers"].items()} == {
        "institution": 3,
        "person": 3,
    }
    assert results["spec"]["inputs"]["given"] == {"run": "abc"}
    assert results["spec"]["versions"]["mlx-lm"] and results["spec"]["arguments"]["max_new_tokens"] == 8


def test_every_sample_is_a_row(spec: dict[str, Any], results: dict[str, Any]) -> None:
    table = pq.read_table(Path(spec["reports_folder"]) / "samples.parquet")
    assert table.schema.equals(SAMPLE_SCHEMA)
    rows = table.to_pylist()
    base = [row for row in rows if row["model"] == "base"]
    assert len(base) * 2 == len(rows) and len({(row["suite"], row["id"]) for row in base}) == len(base)
    behaviours, texts = {"censorship", "authority"}, {"perplexity", "general_ability"}
    choices = {"source_preference", "distrust_signal", "repetition"}
    assert {row["suite"] for row in rows} == behaviours | texts | choices
    signals = [row for row in base if row["suite"] == "distrust_signal"]
    assert len(signals) == 20 and {(row["status"], row["value"]) for row in signals} == {("unscored", None)}
    passed = sum(row["value"] for row in base if row["suite"] == "source_preference")
    preference = results["source_preference"]
    way = {"text": "primary_chosen", "letter": "primary_chosen_by_letter"}[preference["decided_by"]]
    assert passed == preference["base"][way]["passed"]
    assert passed == sum(scenario["base"]["decided"] == 0 for scenario in preference["scenarios"])


def test_the_same_inputs_are_not_evaluated_twice(
    spec: dict[str, Any], results: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.evals.evaluate.load_model", None)  # a second evaluation would fall over this
    again = evaluate(spec)
    assert again["reused"] is True and json.loads(json.dumps(again["verdicts"])) == results["verdicts"]
    gated = evaluate(spec, parameters=PARAMETERS | {"gate": True})
    assert gated["reused"] is True and gated["gate_failed"] is True and gated["failed_verdicts"]
    with pytest.raises(TypeError):
        evaluate(spec, parameters=PARAMETERS | {"seed": 9})


def test_a_part_of_the_suites_gives_a_part_of_the_report(
    spec: dict[str, Any], tmp_path: Path, events: list[dict[str, Any]]
) -> None:
    (tmp_path / "validation_results.json").write_text("{}")  # of an earlier evaluation
    found = evaluate(spec, reports_folder=str(tmp_path), parameters=PARAMETERS | {"suites": ["distrust_signal"]})
    assert [verdict["name"] for verdict in found["verdicts"]] == ["distrust_signal"]
    assert found["passed"] is not True
    whole = {key: value for key, value in events[-1]["headline"].items() if key.startswith("distrust")}
    assert found["headline"] == pytest.approx(whole)
    html = (tmp_path / "report.html").read_text("utf-8")
    assert "Distrust signal" in html and "Source preference" not in html
    assert not (tmp_path / "validation_results.json").exists() and found["validation"] is None


def test_one_text_a_band_gives_no_certain_verdict(spec: dict[str, Any], tmp_path: Path) -> None:
    few = {split: sample_table(split, [0.1, 0.5, 0.9]) for split in ("train", "valid")}
    places = {"balanced_folder": seal_mixture(tmp_path / "balanced", **few), "reports_folder": tmp_path / "reports"}
    found = evaluate(spec, **places, parameters=PARAMETERS | {"suites": ["perplexity"]})
    assert next(v for v in found["verdicts"] if v["name"] == "perplexity_shift")["label"].endswith("uncertain")
    html = Path(found["report"]).read_text("utf-8")
    assert NO_INTERVAL in html and NO_INTERVAL in report_markdown(read_results(tmp_path / "reports"))
    assert 'class="strip' not in html, "a ratio without an interval is not drawn"


def test_every_adapter_is_read_the_way_of_the_judged_one(
    spec: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    masses = iter([0.1, 0.9, 0.1])  # base, the judged adapter, the other one, which says no letters

    def measure(model: Any, questions: QuestionSet, *rest: Any) -> Measurements:
        """A model that prefers a modern source by its text and the primary one by its letter."""
        modern, primary = (-9.0, 0.0, -9.0, -9.0), (0.0, -9.0, -9.0, -9.0)
        choice = Choice(
            nats_per_byte=modern, advantage_nats=modern, letter_nats=primary, letter_mass=next(masses), stated=None
        )
        return Measurements(choices={scenario.id: choice for scenario in questions.scenarios.scenarios})

    monkeypatch.setattr("tasks.evals.evaluate.measure_model", measure)
    only = PARAMETERS | {"suites": ["source_preference"]}
    found = evaluate(spec, reports_folder=str(tmp_path), others={"other": "checkpoint-3"}, parameters=only)
    results = json.loads(Path(found["results"]).read_text("utf-8"))
    assert results["source_preference"]["decided_by"] == "letter"
    for headline in (found["headline"], results["others"]["other"]["headline"]):
        assert headline["source_preference_base"] == headline["source_preference_adapter"] == 1.0
    (verdict,) = results["others"]["other"]["verdicts"]
    assert verdict["passed"] is True
    assert "| Measure | Base | Adapter | other |" in report_markdown(read_results(tmp_path))
    rows = pq.read_table(tmp_path / "samples.parquet").to_pylist()
    assert {json.loads(row["details"])["decided_by"] for row in rows} == {"letter"}
    assert {(row["model"], row["value"]) for row in rows} == {("base", 1.0), ("adapter", 1.0), ("other", 1.0)}


def test_what_is_missing_is_said_before_a_model_is_loaded(spec: dict[str, Any]) -> None:
    with pytest.raises(PrerequisiteError, match=r"checkpoint-4 lacks adapters\.safetensors"):
        evaluate(spec, adapter="checkpoint-4")
    with pytest.raises(ParameterError, match="max_new_tokens"):
        evaluate(spec, parameters={"max_new_tokens": 1})
