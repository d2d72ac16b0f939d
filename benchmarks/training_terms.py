"""What preference, anchor and consistency cost: a step with them against a plain step of as many tokens.

The pairs alone stand beside a plain DPO loop on the same pairs: whole logits, and a pass of the frozen base, which the
pair loss does without. Ratios of CPU seconds, medians of alternating rounds. Three JSON lines for each vocabulary.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

from storage import blas

blas.load()

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks.training import REAL_VOCABULARY, make_data, make_model  # noqa: E402
from sandbox import smollm2  # noqa: E402
from tasks.lora.adapter import adapter_off  # noqa: E402
from tasks.lora.batches import BatchPlan, BatchStream  # noqa: E402
from tasks.lora.lessons import Answer, Choice, Lessons, LessonStream, Pair, Repetition, term_batches  # noqa: E402
from tasks.lora.recipe import Recipe  # noqa: E402
from tasks.lora.step import TrainingStep, make_optimizer  # noqa: E402

ROUNDS = 5


def make_pairs(count: int, vocabulary: int) -> tuple[Pair, ...]:
    """Make lessons as long as those about sources: a prompt of 40 tokens and two answers of 8 to 24."""
    rng = np.random.default_rng(5)

    def answer(prompt: np.ndarray[Any, Any]) -> Answer:
        tokens = rng.integers(1, vocabulary, int(rng.integers(8, 25)))
        return Answer(np.concatenate([prompt, tokens]).astype(np.int32), len(prompt), 4 * len(tokens))

    prompts = [rng.integers(1, vocabulary, 40) for _ in range(count)]
    return tuple(Pair(answer(prompt), answer(prompt)) for prompt in prompts)


def peer_preference(model: Any, pairs: Sequence[Pair]) -> Any:
    """Return the gradient of the pair loss from whole logits, as a plain loop for pairs of answers computes it."""
    (batch,) = term_batches(pairs, Recipe(batch_tokens=2**20))
    tokens, (places, targets, per_byte) = mx.array(batch.tokens), (mx.array(array) for array in batch.arrays)
    base = batch_log_likelihoods(model, tokens, places, targets, per_byte, off=True)

    def loss() -> mx.array:
        own = batch_log_likelihoods(model, tokens, places, targets, per_byte)
        return mx.logaddexp(mx.array(0.0), -20.0 * (own - base)).sum()

    return nn.value_and_grad(model, loss)()[1]


def batch_log_likelihoods(
    model: Any, tokens: mx.array, places: mx.array, targets: mx.array, per_byte: mx.array, off: bool = False
) -> mx.array:
    with adapter_off(model) if off else nullcontext():
        likely = nn.log_softmax(model(tokens).astype(mx.float32), axis=-1)
    likely = likely.reshape(-1, likely.shape[-1])[places]
    return (-per_byte * mx.take_along_axis(likely, targets[:, None], axis=-1)[:, 0]).sum(axis=1)


def make_repetitions(count: int, vocabulary: int) -> tuple[Repetition, ...]:
    """Make questions that repeat a claim, 160 tokens long, and the same with one copy of it, 60 tokens."""
    rng = np.random.default_rng(6)

    def choice(length: int) -> Choice:
        return Choice(rng.integers(2, vocabulary, length).astype(np.int32), (0, 1))

    return tuple(Repetition(choice(160), choice(60)) for _ in range(count))


def compare_steps(model: Any, plain: Recipe, changes: dict[str, Any], lessons: Lessons, rounds: int) -> dict[str, Any]:
    """Measure a step with further terms against a plain step of as many tokens."""
    vocabulary = model.args.vocab_size
    recipe = plain.model_copy(update=changes)
    stream = LessonStream(lessons, recipe)
    # A pair's answers leave out their last token, which is a target alone.
    further = sum(len(answer.tokens) - 1 for pair in lessons.pairs for answer in (pair.chosen, pair.rejected))
    further += sum(len(one.tokens) for pair in lessons.repetitions for one in (pair.repeated, pair.single))
    few, as_many = make_data(np.full(8, 129), vocabulary), make_data(np.full(8, 129 + further // 8), vocabulary)
    seconds: dict[str, list[float]] = {"plain": [], "terms": []}
    tokens = 0
    for turn in range(rounds + 1):  # the first one warms up
        for name, chosen, data in (("plain", plain, as_many), ("terms", recipe, few)):
            step = TrainingStep(model, make_optimizer(chosen), chosen)
            batch = BatchStream(data, BatchPlan.of(chosen)).batch(0)
            began = time.process_time()
            step.accumulate(batch)
            for term_batch in stream.batches(0) if name == "terms" else ():
                step.accumulate_term(term_batch)
            step.update(1e-4)
            if turn:
                seconds[name].append(time.process_time() - began)
            tokens = batch.real_tokens + (further if name == "terms" else 0)
    middle = {name: float(np.median(values)) for name, values in seconds.items()}
    return {
        "tokens": tokens,
        "plain_seconds": round(middle["plain"], 3),
        "terms_seconds": round(middle["terms"], 3),
        "cost_ratio": round(middle["terms"] / middle["plain"], 2),
    }


def measure_terms(vocabulary: int, rounds: int = ROUNDS) -> Iterator[dict[str, Any]]:
    """Measure pairs with anchor, then repeated claims, against a plain step, and the pairs alone against a DPO loop."""
    model, plain = make_model(vocabulary)
    pairs, repetitions = make_pairs(8, vocabulary), make_repetitions(8, vocabulary)
    preference = {"preference_weight": 1.0, "anchor_weight": 1.0, "preference_rows": len(pairs)}
    consistency = {"consistency_weight": 1.0, "consistency_rows": len(repetitions)}
    for name, changes, lessons in (
        ("preference and anchor", preference, Lessons(pairs)),
        ("consistency", consistency, Lessons(repetitions=repetitions)),
    ):
        case = f"{name} against a plain step of the same tokens, vocabulary {vocabulary:,}"
        yield {"benchmark": "training_terms", "case": case, **compare_steps(model, plain, changes, lessons, rounds)}
    recipe = plain.model_copy(update=preference)
    stream = LessonStream(Lessons(pairs), recipe)
    seconds: dict[str, list[float]] = {"own": [], "dpo": []}
    for _ in range(rounds):
        step = TrainingStep(model, make_optimizer(recipe), recipe)
        began = time.process_time()
        for term_batch in stream.batches(0):
            step.accumulate_term(term_batch)
        seconds["own"].append(time.process_time() - began)
        began = time.process_time()
        mx.eval(peer_preference(model, pairs))
        seconds["dpo"].append(time.process_time() - began)
    faster = float(np.median(seconds["dpo"]) / np.median(seconds["own"]))
    case = f"pairs beside a plain DPO loop, vocabulary {vocabulary:,}"
    yield {"benchmark": "training_terms", "case": case, "speed_ratio": round(faster, 2)}


def main(only: str = "") -> None:
    """Measure and print; ``smollm2`` alone where that is asked for."""
    real = [(REAL_VOCABULARY, 2)] if smollm2.cached_folder() else []
    for vocabulary, rounds in real if only == "smollm2" else [*real, (4096, ROUNDS), (32_000, 3)]:
        for line in measure_terms(vocabulary, rounds):
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:2])
