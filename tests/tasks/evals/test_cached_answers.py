from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tasks.evals import cached_answers
from tasks.evals.cached_answers import KEPT, CachedModel
from tasks.evals.model_under_test import OptionScore, TextLikelihood
from tasks.evals.parameters import MAX_QUESTIONS_AT_ONCE, EvaluationParameters


class Counting:
    """Answers with what it was asked, and counts; may give up after so many calls."""

    def __init__(self, dies_after: int = 10**9) -> None:
        self.asked: list[str] = []
        self.largest = self.loads = 0
        self._left = dies_after

    def load(self) -> Any:
        self.loads += 1
        return self

    def generate(self, prompts: Sequence[str], max_new_tokens: int, *, plain: bool = False) -> list[str]:
        self._count(prompts)
        return [f"{prompt}!{max_new_tokens}" for prompt in prompts]

    def score_options(self, pairs: Sequence[tuple[str, str]], *, plain: bool = False) -> list[OptionScore]:
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


def cached(folder: Path, model: Counting, identity: str = "base") -> CachedModel:
    return CachedModel(model.load, {"model": identity}, folder)


def test_what_was_answered_is_not_asked_again_and_no_model_is_loaded(tmp_path: Path) -> None:
    def ask(model: CachedModel) -> list[Any]:
        return [
            model.generate(["a", "b", "a"], 8),
            model.score_options([("p", " é"), ("p", " no"), ("pp", " é")]),
            model.negative_log_likelihoods(["one", "two"], 16),
        ]

    first, second = Counting(), Counting()
    answers = ask(cached(tmp_path, first))
    assert answers[0] == ["a!8", "b!8", "a!8"] and first.asked[:2] == ["a", "b"] and first.loads == 1
    assert answers[1][0] == OptionScore(-1.0, 2, 3) and answers[2][0] == TextLikelihood(3.0, 16)
    assert ask(cached(tmp_path, second)) == answers
    assert second.loads == 0 and second.asked == []
    cached(tmp_path, second, "another").generate(["a"], 8)
    cached(tmp_path, second).generate(["a"], 9)
    assert second.asked == ["a", "a"], "another model and another length are asked anew"


def test_a_kill_loses_at_most_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached_answers, "MAX_QUESTIONS_AT_ONCE", 4)
    prompts = [f"prompt {n}" for n in range(10)]
    with pytest.raises(KeyboardInterrupt):
        cached(tmp_path, Counting(dies_after=2)).generate(prompts, 8)
    after = Counting()
    assert cached(tmp_path, after).generate(prompts, 8) == [f"{prompt}!8" for prompt in prompts]
    assert after.asked == prompts[8:]


def test_no_batch_size_is_allowed_that_no_batch_would_reach(tmp_path: Path) -> None:
    model = Counting()
    cached(tmp_path, model).generate([f"prompt {n}" for n in range(150)], 8)
    assert model.largest == EvaluationParameters(eval_batch_size=MAX_QUESTIONS_AT_ONCE).eval_batch_size
    with pytest.raises(ValidationError, match="eval_batch_size"):
        EvaluationParameters(eval_batch_size=model.largest + 1)


def test_a_damaged_file_costs_time_only(tmp_path: Path) -> None:
    (tmp_path / KEPT).write_bytes(b"half a file")
    model = Counting()
    assert cached(tmp_path, model).generate(["a"], 8) == ["a!8"]
    assert model.asked == ["a"]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"gate": True, "suites": ("censorship", "authority", "source_preference")}, "distrust_signal is left out"),
        *(({"others": ("checkpoint-5", name)}, f"others holds '{name}'") for name in ("base", "adapter", "total")),
    ],
)
def test_parameters_that_contradict_the_results_are_refused(wanted: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        EvaluationParameters(**wanted)
