from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tasks.evals import remembered
from tasks.evals.model_under_test import OptionScore, TextLikelihood
from tasks.evals.parameters import MAX_QUESTIONS_AT_ONCE, EvaluationParameters
from tasks.evals.remembered import KEPT, KeptAnswers, RememberedModel


class Counting:
    """Answers with what it was asked, and counts; may give up after so many calls."""

    def __init__(self, dies_after: int = 10**9) -> None:
        self.asked: list[str] = []
        self.loads = 0
        self.largest = 0
        self._left = dies_after

    def load(self) -> Any:
        self.loads += 1
        return self

    def close(self) -> None:
        self.loads = -1

    def generate(self, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        self._count(prompts)
        return [f"{prompt}!{max_new_tokens}" for prompt in prompts]

    def score_options(self, pairs: Sequence[tuple[str, str]]) -> list[OptionScore]:
        self._count(["".join(pair) for pair in pairs])
        return [OptionScore(-float(len(prompt)), len(option), len(option.encode())) for prompt, option in pairs]

    def negative_log_likelihoods(self, texts: Sequence[str], max_seq_length: int) -> list[TextLikelihood]:
        self._count(texts)
        return [TextLikelihood(float(len(text)), max_seq_length) for text in texts]

    def _count(self, texts: Sequence[str]) -> None:
        self._left -= 1
        if self._left < 0:
            raise KeyboardInterrupt
        self.asked += texts
        self.largest = max(self.largest, len(texts))


def remember(folder: Path, model: Counting, identity: str = "base") -> RememberedModel:
    return RememberedModel(model.load, {"model": identity}, KeptAnswers(folder))


def test_what_was_answered_is_not_asked_again_and_no_model_is_loaded(tmp_path: Path) -> None:
    def ask(model: RememberedModel) -> list[Any]:
        return [
            model.generate(["a", "b", "a"], 8),
            model.score_options([("p", " é"), ("p", " no"), ("pp", " é")]),
            model.negative_log_likelihoods(["one", "two"], 16),
        ]

    first, second = Counting(), Counting()
    answers = ask(remember(tmp_path, first))
    assert answers[0] == ["a!8", "b!8", "a!8"] and first.asked[:2] == ["a", "b"] and first.loads == 1
    assert answers[1][0] == OptionScore(-1.0, 2, 3)
    assert ask(remember(tmp_path, second)) == answers
    assert second.loads == 0 and second.asked == []


def test_another_model_or_length_is_asked_anew(tmp_path: Path) -> None:
    remember(tmp_path, Counting()).generate(["a"], 8)
    model = Counting()
    remember(tmp_path, model, "another").generate(["a"], 8)
    remember(tmp_path, model).generate(["a"], 9)
    assert model.asked == ["a", "a"]


def test_a_kill_loses_at_most_a_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "CHUNK", 4)
    prompts = [f"prompt {n}" for n in range(10)]
    dying = Counting(dies_after=2)
    with pytest.raises(KeyboardInterrupt):
        remember(tmp_path, dying).generate(prompts, 8)
    after = Counting()
    assert remember(tmp_path, after).generate(prompts, 8) == [f"{prompt}!8" for prompt in prompts]
    assert after.asked == prompts[8:]


def test_no_batch_is_allowed_that_would_never_come_together(tmp_path: Path) -> None:
    model = Counting()
    remember(tmp_path, model).generate([f"prompt {n}" for n in range(150)], 8)
    assert model.largest == EvaluationParameters(eval_batch_size=MAX_QUESTIONS_AT_ONCE).eval_batch_size
    with pytest.raises(ValidationError, match="eval_batch_size"):
        EvaluationParameters(eval_batch_size=model.largest + 1)


def test_a_damaged_file_costs_time_only(tmp_path: Path) -> None:
    (tmp_path / KEPT).write_bytes(b"half a file")
    model = Counting()
    assert remember(tmp_path, model).generate(["a"], 8) == ["a!8"]
    assert model.asked == ["a"]
