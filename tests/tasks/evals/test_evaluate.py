from __future__ import annotations

import json
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from storage.errors import ParameterError, PrerequisiteError
from storage.events import parse_event
from tasks.evals.__main__ import work
from tasks.evals.evaluate import evaluate_run
from tasks.evals.measure import Choice, Measurements
from tasks.evals.records import EVALUATION_SAMPLE_SCHEMA
from tasks.evals.report import NO_INTERVAL, render_report, report_markdown
from tasks.evals.spec import EvaluationSpec
from tasks.evals.suites import GUIDE_TESTS, QuestionSet
from tests.tasks.evals.conftest import sample_table, seal_mixture

ROOT = Path(__file__).parents[3]
PARAMETERS = {"max_new_tokens": 8, "perplexity_samples": 4, "eval_seq_length": 64, "eval_batch_size": 64}


def make_spec(run: Path, model: Path, balanced: Path, reports: Path, **parameters: Any) -> dict[str, Any]:
    return {
        "run_folder": str(run),
        "model_path": str(model),
        "adapter": "checkpoint-3",
        "balanced_folder": str(balanced),
        "reports_folder": str(reports),
        "parameters": PARAMETERS | parameters,
        "inputs": {"run": "abc"},
    }


@pytest.fixture(scope="module")
def spec(run_folder: Path, base_model: Path, balanced_folder: Path, tmp_path_factory: Any) -> dict[str, Any]:
    reports = tmp_path_factory.mktemp("reports") / "reports"
    return make_spec(run_folder, base_model, balanced_folder, reports)


@pytest.fixture(scope="module")
def events(spec: dict[str, Any], tmp_path_factory: Any) -> list[dict[str, Any]]:
    """The events of a whole evaluation in a child process, as the parent starts it."""
    path = tmp_path_factory.mktemp("spec") / "spec.json"
    path.write_text(json.dumps(spec))
    command = [sys.executable, "-m", "tasks.evals", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, env=dict(os.environ))
    assert done.returncode == 0, done.stderr + done.stdout
    return [parse_event(line) for line in done.stdout.splitlines()]


@pytest.fixture
def results(events: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(events[-1]["results"]).read_text("utf-8"))
    return found


def test_progress_counts_to_its_end_and_the_result_is_last(events: list[dict[str, Any]]) -> None:
    progress = [event for event in events if event["event"] == "progress"]
    assert [event["done"] for event in progress] == list(range(1, 9))
    assert {event["total"] for event in progress} == {8}
    result = events[-1]
    assert result["event"] == "result" and result["reused"] is False and result["gate_failed"] is False
    assert Path(result["report"]).is_file() and result["markdown"].startswith("## first")
    assert result["headline"]["perplexity_low_base"] > 1


def test_validation_results_hold_every_test_for_both_models(events: list[dict[str, Any]]) -> None:
    record = json.loads(Path(events[-1]["validation"]).read_text("utf-8"))
    tests = {test["id"]: test for test in record["tests"]}
    assert len(tests) == 48 and set(GUIDE_TESTS) < tests.keys()
    for model in ("base", "adapter"):
        states = [test[model]["status"] for test in record["tests"]]
        overall = record["suites"]["overall"][model]
        assert overall["passed"] == states.count("pass") and overall["unscored"] == states.count("unscored")
        assert all(test[model]["reason"] for test in record["tests"])
    assert record["suites"]["guide"]["base"]["samples"] == 8
    assert record["status"] in ("not validated", "undecided")
    assert record["model"] == "tiny llama" and record["adapter"] == "checkpoint-3"


def test_evaluation_results_hold_every_measure(results: dict[str, Any]) -> None:
    assert {verdict["name"] for verdict in results["verdicts"]} == {
        "censorship",
        "authority",
        "overall",
        "source_preference",
        "perplexity_shift",
        "perplexity_pattern",
        "distrust_signal",
        "general_ability",
    }
    for band in ("low", "medium", "high"):
        record = results["perplexity"]["bands"][band]
        assert record["samples"] == 4 and record["tokens"] > 0
        ratio = record["adapter"]["value"] / record["base"]["value"]
        assert record["ratio"]["value"] == pytest.approx(ratio, rel=1e-6)
        assert record["ratio"]["low"] - 1e-9 <= ratio <= record["ratio"]["high"] + 1e-9
    assert len(results["source_preference"]["scenarios"]) >= 20
    signals = results["distrust_signal"]
    means = [signals["adapter"][side]["value"] for side in ("primary", "modern")]
    assert signals["adapter"]["ratio"]["value"] == pytest.approx(means[0] / means[1])
    assert results["spec"]["inputs"]["given"] == {"run": "abc"}
    assert results["spec"]["versions"]["mlx-lm"] and results["spec"]["arguments"]["max_new_tokens"] == 8


def test_every_sample_is_a_row(spec: dict[str, Any], results: dict[str, Any]) -> None:
    table = pq.read_table(Path(spec["reports_folder"]) / "samples.parquet")
    assert table.schema.equals(EVALUATION_SAMPLE_SCHEMA)
    rows = table.to_pylist()
    base = [row for row in rows if row["model"] == "base"]
    assert len(base) * 2 == len(rows) and len({(row["suite"], row["id"]) for row in base}) == len(base)
    assert {row["suite"] for row in rows} == {
        "censorship",
        "authority",
        "source_preference",
        "distrust_signal",
        "perplexity",
        "general_ability",
    }
    passed = sum(row["value"] for row in base if row["suite"] == "source_preference")
    preference = results["source_preference"]
    way = {"text": "primary_chosen", "letter": "primary_chosen_by_letter"}[preference["decided_by"]]
    assert passed == preference["base"][way]["passed"]
    assert passed == sum(scenario["base"]["decided"] == 0 for scenario in preference["scenarios"])


def test_the_same_inputs_are_not_evaluated_twice(
    spec: dict[str, Any], results: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.evals.evaluate.load_model", None)  # a second evaluation would fall over this
    again = work(spec, lambda event, **fields: None)
    assert again["reused"] is True and again["verdicts"] == results["verdicts"]
    gated = work(spec | {"parameters": PARAMETERS | {"gate": True}}, lambda event, **fields: None)
    assert gated["reused"] is True and gated["gate_failed"] is True and gated["failed_verdicts"]
    with pytest.raises(TypeError):
        work(spec | {"parameters": PARAMETERS | {"seed": 9}}, lambda event, **fields: None)


def test_a_part_of_the_suites_gives_a_part_of_the_report(
    spec: dict[str, Any], tmp_path: Path, events: list[dict[str, Any]]
) -> None:
    told: list[str] = []
    part = spec | {"reports_folder": str(tmp_path), "parameters": PARAMETERS | {"suites": ["distrust_signal"]}}
    (tmp_path / "validation_results.json").write_text("{}")  # of an earlier evaluation
    found = evaluate_run(EvaluationSpec.model_validate(part), lambda event, **fields: told.append(event))
    assert told == ["progress"] * 2
    assert [verdict["name"] for verdict in found["verdicts"]] == ["distrust_signal"]
    assert found["passed"] is not True
    whole = {key: value for key, value in events[-1]["headline"].items() if key.startswith("distrust")}
    assert found["headline"] == pytest.approx(whole)
    html = (tmp_path / "report.html").read_text("utf-8")
    assert "Distrust signal" in html and "Source preference" not in html
    assert not (tmp_path / "validation_results.json").exists() and found["validation"] is None


class Tags(HTMLParser):
    """Collects what a browser would see as elements."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]


def test_the_report_escapes_what_a_model_wrote_and_needs_nothing_else(results: dict[str, Any]) -> None:
    evil = '<script>alert(1)</script><img src="https://example.org/x.png">'
    results["behaviours"]["tests"][0]["adapter"]["response"] = evil + "x" * 200
    results["behaviours"]["tests"][1]["base"]["reason"] = evil
    results["run"] = "a|b<script>"
    html = render_report(results)
    tags = Tags()
    tags.feed(html)
    assert "script" not in tags.names and "img" not in tags.names and "link" not in tags.names
    assert tags.links == ["#answers"] and "url(" not in html and "@import" not in html
    assert "&lt;script&gt;alert(1)" in html and "svg" in tags.names
    assert results["digest"] in html


def test_whole_numbers_of_the_objective_stand_in_full(results: dict[str, Any]) -> None:
    results["objective"] = {"objective": "weighted", "max_steps": 10000, "seed": 1234567, "alpha": 2.7, "Z": 1.23456}
    html = render_report(results)
    for shown in ("weighted", "10000", "1234567", "2.7", "1.235"):
        assert f"<dd>{shown}</dd>" in html


def test_one_text_a_band_gives_no_certain_verdict(spec: dict[str, Any], tmp_path: Path) -> None:
    mixture = seal_mixture(
        tmp_path / "balanced",
        train=sample_table("train", [0.1, 0.5, 0.9]),
        valid=sample_table("valid", [0.1, 0.5, 0.9]),
    )
    places = {"balanced_folder": str(mixture), "reports_folder": str(tmp_path / "reports")}
    only = spec | places | {"parameters": PARAMETERS | {"suites": ["perplexity"]}}
    found = evaluate_run(EvaluationSpec.model_validate(only), lambda event, **fields: None)
    verdicts = {verdict["name"]: verdict for verdict in found["verdicts"]}
    assert verdicts["perplexity_shift"]["label"].endswith(", uncertain")
    html = Path(found["report"]).read_text("utf-8")
    assert NO_INTERVAL in html and NO_INTERVAL in found["markdown"]
    assert 'class="strip' not in html, "a ratio without an interval is not drawn"


def choices_of(questions: QuestionSet, letter_mass: float) -> Measurements:
    """A model that prefers a modern source by its text and the primary one by its letter."""
    modern, primary = (-9.0, 0.0, -9.0, -9.0), (0.0, -9.0, -9.0, -9.0)
    choice = Choice(
        nats_per_byte=modern, advantage_nats=modern, letter_nats=primary, letter_mass=letter_mass, stated=None
    )
    return Measurements(choices={scenario.id: choice for scenario in questions.scenarios.scenarios})


def test_every_adapter_is_read_the_way_of_the_judged_one(
    spec: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    masses = iter([0.1, 0.9, 0.1])  # base, the judged adapter, the other one, which says no letters

    def measure(model: Any, questions: QuestionSet, *rest: Any) -> Measurements:
        return choices_of(questions, next(masses))

    monkeypatch.setattr("tasks.evals.evaluate.measure_model", measure)
    parameters = PARAMETERS | {"suites": ["source_preference"]}
    both = spec | {"reports_folder": str(tmp_path), "others": {"other": "checkpoint-3"}, "parameters": parameters}
    found = evaluate_run(EvaluationSpec.model_validate(both), lambda event, **fields: None)
    results = json.loads(Path(found["results"]).read_text("utf-8"))
    assert results["source_preference"]["decided_by"] == "letter"
    for headline in (found["headline"], results["others"]["other"]["headline"]):
        assert headline["source_preference_base"] == headline["source_preference_adapter"] == 1.0
    (verdict,) = results["others"]["other"]["verdicts"]
    assert verdict["passed"] is True
    rows = pq.read_table(tmp_path / "samples.parquet").to_pylist()
    assert {json.loads(row["details"])["decided_by"] for row in rows} == {"letter"}
    assert {(row["model"], row["value"]) for row in rows} == {("base", 1.0), ("adapter", 1.0), ("other", 1.0)}


def test_the_markdown_holds_numbers_but_no_answers(results: dict[str, Any]) -> None:
    results["behaviours"]["tests"][0]["adapter"]["response"] = "| evil |"
    results["run"] = "a|b <img>"
    text = report_markdown(results)
    assert "evil" not in text and "a\\|b &lt;img>" in text and "<" not in text
    assert text.count("\n| ") >= 15 and len(text) < 4000
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in rows} == {5, 6}


def test_what_is_missing_is_said_before_a_model_is_loaded(spec: dict[str, Any]) -> None:
    with pytest.raises(PrerequisiteError, match=r"checkpoint-4 lacks adapters\.safetensors"):
        work(spec | {"adapter": "checkpoint-4"}, lambda event, **fields: None)
    with pytest.raises(ParameterError, match="max_new_tokens"):
        work(spec | {"parameters": {"max_new_tokens": 1}}, lambda event, **fields: None)
