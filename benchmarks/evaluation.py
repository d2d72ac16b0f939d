"""Evaluation in batches beside one question at a time, on the sandbox's base model; one JSON line each.

Generated answers must be the same and scores equal, or the benchmark fails. A random model would not do: its logits
lie so close together that sums in another order choose other tokens.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from storage import blas
from storage.chat import format_prompt
from tasks.evals.invented_facts import COPIES, invented_facts
from tasks.evals.model_under_test import ModelUnderTest
from tasks.evals.questions import LETTERS, QuestionSet, load_questions

BASE_MODEL = Path(__file__).resolve().parent.parent / "sandbox" / "base_model"
NEW_TOKENS = 32
BATCH = 64
ROUNDS = 3
FACTS = 24
"""Invented facts, of the suite's 336: enough to measure."""
TOLERANCE = 1e-3
"""Nats; float32 sums in another order."""


def generate_one_by_one(model: Any, tokenizer: Any, prompts: list[str]) -> list[str]:
    """Answer prompts as `mlx_lm.generate` does, each by itself."""
    from mlx_lm import generate

    return [generate(model, tokenizer, tokenizer.encode(prompt), max_tokens=NEW_TOKENS) for prompt in prompts]


def score_one_by_one(model: Any, tokenizer: Any, pairs: list[tuple[str, str]]) -> list[float]:
    """Score continuations each by itself, over the whole sequence."""
    import mlx.core as mx
    import mlx.nn as nn

    scores = []
    for prompt, option in pairs:
        alone, joint = tokenizer.encode(prompt), tokenizer.encode(prompt + option)
        logits = model(mx.array([joint[:-1]])).astype(mx.float32)
        losses = nn.losses.cross_entropy(logits[0], mx.array(joint[1:]))
        scores.append(-float(losses[len(alone) - 1 :].sum().item()))
    return scores


def best_seconds(work: Callable[[], Any], others: Callable[[], Any]) -> tuple[float, float, Any, Any]:
    """Take the processor's time of two ways in turns; return the best of each and what they found."""
    first, second = [], []
    for _ in range(ROUNDS):
        started = time.process_time()
        one = work()
        first.append(time.process_time() - started)
        started = time.process_time()
        other = others()
        second.append(time.process_time() - started)
    return min(first), min(second), one, other


def compare_generation(model: Any, tokenizer: Any, questions: QuestionSet) -> dict[str, Any]:
    """Measure the answers to the behaviour prompts; both ways must write the same."""
    tested = ModelUnderTest(model, tokenizer, BATCH)
    prompts = [format_prompt(entry.prompt) for entry in questions.behaviours.behaviours]
    ours, theirs, texts, expected = best_seconds(
        lambda: tested.generate(prompts, NEW_TOKENS, plain=True), lambda: generate_one_by_one(model, tokenizer, prompts)
    )
    return {
        "benchmark": "evaluation: generation",
        "prompts": len(prompts),
        "seconds": round(ours, 2),
        "one_by_one_seconds": round(theirs, 2),
        "ratio": round(theirs / ours, 1),
        "identical_answers": sum(one.strip() == other.strip() for one, other in zip(texts, expected, strict=True)),
    }


class Counted:
    """A model with a count of the tokens that it reads, padding included."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.tokens = 0

    def __call__(self, inputs: Any, **cache: Any) -> Any:
        """Read (batch, length) token ids."""
        self.tokens += inputs.size
        return self._model(inputs, **cache)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def option_pairs(questions: QuestionSet) -> list[tuple[str, str]]:
    """Return every choice between sources, by its text and by its letters."""
    found = questions.scenarios
    cloze = [(format_prompt(found.ask(each)), f" {option}") for each in found.scenarios for option in each.options]
    letters = [
        (format_prompt(found.ask_choice(each, first)), f" {letter}")
        for each in found.scenarios
        for first in range(len(LETTERS))
        for letter in LETTERS
    ]
    return cloze + letters


def repetition_pairs(facts: int) -> list[tuple[str, str]]:
    """Return the questions about some invented facts, with every number of copies."""
    return [
        (format_prompt(fact.ask(copies)), f" {value}")
        for fact in invented_facts(facts)
        for copies in COPIES
        for value in (fact.right, fact.copied)
    ]


def compare_likelihoods(model: Any, tokenizer: Any, name: str, pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """Measure the scores of all options of a suite; both ways must find the same."""
    counted, alone = Counted(model), Counted(model)
    tested = ModelUnderTest(counted, tokenizer, BATCH)
    ours, theirs, scores, nats = best_seconds(
        lambda: tested.score_options(pairs, plain=True), lambda: score_one_by_one(alone, tokenizer, pairs)
    )
    return {
        "benchmark": f"evaluation: {name}",
        "options": len(nats),
        "tokens": counted.tokens // ROUNDS,
        "one_by_one_tokens": alone.tokens // ROUNDS,
        "seconds": round(ours, 2),
        "one_by_one_seconds": round(theirs, 2),
        "ratio": round(theirs / ours, 1),
        "largest_difference_nats": max(abs(score.nats - value) for score, value in zip(scores, nats, strict=True)),
    }


def main() -> None:
    """Measure and print."""
    blas.load()  # as the evaluation's own process does, before MLX is there
    from mlx_lm import load

    model, tokenizer = load(str(BASE_MODEL))
    questions = load_questions()
    generation = compare_generation(model, tokenizer, questions)
    print(json.dumps(generation), flush=True)
    if different := generation["prompts"] - generation["identical_answers"]:
        raise SystemExit(f"{different} answers differ")
    for name, pairs in (("likelihoods", option_pairs(questions)), ("repetition", repetition_pairs(FACTS))):
        likelihoods = compare_likelihoods(model, tokenizer, name, pairs)
        print(json.dumps(likelihoods), flush=True)
        if (worst := likelihoods["largest_difference_nats"]) > TOLERANCE:
            raise SystemExit(f"scores differ by {worst}")


if __name__ == "__main__":
    main()
