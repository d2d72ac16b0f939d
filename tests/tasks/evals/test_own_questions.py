"""Question sets of the user's own: what a line may hold, and how both models are compared on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from storage.errors import ParameterError
from tasks.evals.model_under_test import OptionScore, load_model
from tasks.evals.own_questions import OwnAnswer, OwnQuestion, compare_own, find_files, read_questions
from tasks.evals.report import report_markdown
from tasks.evals.results import EvaluationResult, read_results
from tests.tasks.evals.conftest import make_spec
from tests.tasks.evals.test_evaluate import evaluate

WORDS = ("tea", "a kettle of old iron", "the log book", "rain", "snow in the mountains", "salt")


def write_set(path: Path, count: int = 30) -> Path:
    rows = []
    for number in range(count):
        options = [WORDS[(number + place) % len(WORDS)] for place in range(2 + number % 3)]
        right = number % len(options)
        rows.append({"question": f"What came {number} days later?", "options": options, "topic": "ignored"})
        rows[-1]["answer"] = options[right] if number % 2 else right
    path.write_text("\n\n".join(map(json.dumps, rows)), "utf-8-sig")
    return path


def test_a_line_names_the_right_option_by_index_or_text(tmp_path: Path) -> None:
    found = read_questions(write_set(tmp_path / "quiz.jsonl"))
    assert [(each.line, each.right) for each in found[:4]] == [(1, 0), (3, 1), (5, 2), (7, 1)]
    assert found[1].options == ("a kettle of old iron", "the log book", "rain") and found[1].id == "quiz.jsonl:3"
    assert len(read_questions(tmp_path / "quiz.jsonl", 5)) == 5
    (tmp_path / "numbers.jsonl").write_text('{"question": "1 + 1?", "options": ["1", "2", "0"], "answer": "1"}')
    assert read_questions(tmp_path / "numbers.jsonl")[0].right == 0, "a text is the text of an option"
    assert find_files([tmp_path]) == [tmp_path / "numbers.jsonl", tmp_path / "quiz.jsonl"]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("[1]", "a list is not an object"),
        ("{", "Expecting property name"),
        ('{"question": "Why?", "options": ["a", "b"]}', "answer missing"),
        ('{"question": 7, "options": ["a", "b"], "answer": 0}', "question is 7, not a text"),
        ('{"question": "Why?", "options": "ab", "answer": 0}', 'options is "ab", not a list of 2 to 26 texts'),
        ('{"question": "Why?", "options": ["a"], "answer": 0}', "options has 1 entries, not 2 to 26"),
        ('{"question": "Why?", "options": ["a", " "], "answer": 0}', 'option 1 is " ", not a text'),
        ('{"question": "Why?", "options": ["a", "b", "a"], "answer": 0}', 'option "a" stands there twice'),
        ('{"question": "Why?", "options": ["a", "b"], "answer": 2}', "answer 2 is neither an index from 0 to 1 nor"),
        ('{"question": "Why?", "options": ["a", "b"], "answer": -1}', "answer -1 is neither"),
        ('{"question": "Why?", "options": ["a", "b"], "answer": true}', "answer true is neither"),
        ('{"question": "Why?", "options": ["a", "b"], "answer": "c"}', 'answer "c" is neither'),
        ('{"question": "%s", "options": ["a", "b"], "answer": 0}' % ("x" * 20_001), "20,001 characters, more than"),
        ('{"question": "Why?", "options": ["a", "\\ud800"], "answer": 0}', 'holds half a character, "\\ud800"'),
        ("[" * 100_000, "nests deeper"),
        (b'{"question": "caf\xe9"}', "can't decode byte 0xe9"),
    ],
    ids=range(16),
)
def test_a_bad_line_is_named_with_its_value_and_the_bound(tmp_path: Path, line: str | bytes, fault: str) -> None:
    path = tmp_path / "quiz.jsonl"
    good = b'{"question": "Why?", "options": ["a", "b"], "answer": 0}\n'
    path.write_bytes(good + b"\n" + (line if isinstance(line, bytes) else line.encode()))
    with pytest.raises(ParameterError) as error:
        read_questions(path)
    assert str(error.value).startswith(f"{path}:3: ") and fault in str(error.value)


def test_what_holds_no_questions_is_said(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(ParameterError, match="holds no question; write lines such as"):
        read_questions(tmp_path / "empty.jsonl")
    with pytest.raises(ParameterError, match="cannot be read"):
        read_questions(tmp_path / "gone.jsonl")
    (tmp_path / "inner").mkdir()
    with pytest.raises(ParameterError, match=r"inner holds no file \*\.jsonl"):
        find_files([tmp_path / "inner"])
    write_set(tmp_path / "inner" / "empty.jsonl")
    with pytest.raises(ParameterError, match=r"2 files of questions are called 'empty\.jsonl'"):
        find_files([tmp_path, tmp_path / "inner"])


def test_models_are_compared_in_pairs_and_a_tie_is_not_right() -> None:
    questions = [
        OwnQuestion(file=file, line=line, question="Why?", options=("a", "b"), right=0)
        for file in ("one.jsonl", "two.jsonl")
        for line in range(1, 21)
    ]
    right, wrong, tie = (OwnAnswer(nats=nats) for nats in ((-1.0, -2.0), (-2.0, -1.0), (-1.0, -1.0)))
    base = {each.id: (right, wrong, tie, wrong)[each.line % 4] for each in questions}
    adapter = {each.id: right if each.file == "one.jsonl" else base[each.id] for each in questions}
    found = compare_own(questions, base, adapter, "none", 1)
    one, two = found.files.values()
    assert (one.base.passed, one.adapter.passed, one.gained, one.lost) == (5, 20, 15, 0)
    assert (two.gained, two.lost, two.difference.value) == (0, 0, 0.0)
    assert one.difference.low is not None and one.difference.low > 0.5
    assert list(found.rows) == ["one.jsonl", "two.jsonl", "all files"] and found.together.gained == 15
    (verdict,) = found.outcome().relative
    assert verdict.passed is True and verdict.label == "better" and verdict.decides is False


@pytest.fixture
def spec(run_folder: Path, base_model: Path, balanced_folder: Path, tmp_path: Path) -> dict[str, Any]:
    questions = [str(write_set(tmp_path / "quiz.jsonl"))]
    return make_spec(
        *(run_folder, base_model, balanced_folder, tmp_path / "reports"),
        suites=["distrust_signal"],
        eval_limit=20,
        questions=questions,
    )


def test_options_are_scored_as_answers_and_reported(spec: dict[str, Any], tmp_path: Path) -> None:
    questions = read_questions(tmp_path / "quiz.jsonl", 20)
    scores = {}
    for side, adapter in (("base", None), ("adapter", Path(spec["run_folder"], "checkpoint-3"))):
        model = load_model(spec["model_path"], adapter)
        pairs = [[(f"User: {each.question}\n\nAssistant:", f" {one}") for one in each.options] for each in questions]
        scores[side] = [alone(model, some) for some in pairs]
    for norm, measure, words in (("none", "nats", "not normalised"), ("byte", "nats_per_byte", "UTF-8 bytes")):
        spec["parameters"]["question_norm"] = norm
        result = evaluate(spec)
        for side, found in scores.items():
            values = [[getattr(score, measure) for score in some] for some in found]
            chosen = [some.index(max(some)) for some in values]
            right = sum(place == each.right for place, each in zip(chosen, questions, strict=True))
            assert result["headline"][f"own_questions_{side}"] == right / 20
        html = (tmp_path / "reports" / "report.html").read_text("utf-8")
        assert "<h2>Your questions</h2>" in html and words in html
    results = read_results(tmp_path / "reports")
    assert "<td>Your questions answered right</td>" in html
    assert "| Your questions answered right |" in report_markdown(results)
    assert results.spec.arguments["questions"] == ["quiz.jsonl"] and "your questions" in results.conclusion
    assert any("your questions answered right" in line for line in EvaluationResult(**result).summary())
    rows = pq.read_table(tmp_path / "reports" / "samples.parquet").to_pylist()
    own = [row for row in rows if row["suite"] == "own_questions" and row["model"] == "base"]
    assert len(own) == 20 and sum(row["value"] for row in own) == result["headline"]["own_questions_base"] * 20


def alone(model: Any, pairs: list[tuple[str, str]]) -> list[OptionScore]:
    return [model.score_options([pair], plain=True)[0] for pair in pairs]


def test_other_questions_are_another_evaluation(spec: dict[str, Any], tmp_path: Path) -> None:
    assert evaluate(spec)["reused"] is False
    assert evaluate(spec)["reused"] is True
    moved = (tmp_path / "quiz.jsonl").rename(tmp_path / "reports" / "quiz.jsonl")
    spec["parameters"]["questions"] = [str(moved)]
    assert evaluate(spec)["reused"] is True, "where they lie does not matter"
    write_set(moved, 12)
    again = evaluate(spec)
    assert again["reused"] is False and read_results(tmp_path / "reports").own_questions.together.base.samples == 12  # type: ignore[union-attr]
    moved.write_text("{}")
    with pytest.raises(ParameterError, match="question and options and answer missing"):
        evaluate(spec)
