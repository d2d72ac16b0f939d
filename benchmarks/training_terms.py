"""What preference and anchor cost: a step with both against a plain step that takes as many tokens through the model.

The pairs alone stand beside a plain DPO loop on the same pairs: whole logits, and a pass of the frozen base, which the
pair loss does without. Ratios of CPU seconds, medians of alternating rounds. One JSON line for each vocabulary.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
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
from tasks.lora.lessons import Answer, Lessons, LessonStream, Pair, term_batches  # noqa: E402
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


def measure_terms(vocabulary: int, rounds: int = ROUNDS) -> dict[str, Any]:
    """Measure a step with pairs and anchor against a plain step of as many tokens, and the pairs against a DPO loop."""
    model, plain = make_model(vocabulary)
    with_terms = plain.model_copy(update={"preference_weight": 1.0, "anchor_weight": 1.0, "preference_rows": 8})
    pairs = make_pairs(with_terms.preference_rows, vocabulary)
    lessons = LessonStream(Lessons(pairs), with_terms)
    pair_tokens = sum(len(answer.tokens) - 1 for pair in pairs for answer in (pair.chosen, pair.rejected))
    few, as_many = make_data(np.full(8, 129), vocabulary), make_data(np.full(8, 129 + pair_tokens // 8), vocabulary)
    seconds: dict[str, list[float]] = {"plain": [], "terms": [], "pairs": [], "dpo": []}
    tokens = 0
    for _ in range(rounds):
        for name, recipe, data in (("plain", plain, as_many), ("terms", with_terms, few)):
            step = TrainingStep(model, make_optimizer(recipe), recipe)
            batch = BatchStream(data, BatchPlan.of(recipe)).batch(0)
            began = time.process_time()
            step.accumulate(batch)
            for term_batch in lessons.batches(0) if name == "terms" else ():
                step.accumulate_term(term_batch)
            step.update(1e-4)
            seconds[name].append(time.process_time() - began)
            tokens = batch.real_tokens + (pair_tokens if name == "terms" else 0)
        began = time.process_time()
        for term_batch in lessons.batches(0):
            step.accumulate_term(term_batch)
        seconds["pairs"].append(time.process_time() - began)
        began = time.process_time()
        mx.eval(peer_preference(model, pairs))
        seconds["dpo"].append(time.process_time() - began)
    middle = {name: float(np.median(values)) for name, values in seconds.items()}
    return {
        "benchmark": "training_terms",
        "case": f"preference and anchor against a plain step of the same tokens, vocabulary {vocabulary:,}",
        "tokens": tokens,
        "plain_seconds": round(middle["plain"], 3),
        "terms_seconds": round(middle["terms"], 3),
        "cost_ratio": round(middle["terms"] / middle["plain"], 2),
        "pairs_to_dpo_loop": round(middle["dpo"] / middle["pairs"], 2),
    }


def main(only: str = "") -> None:
    """Measure and print; ``smollm2`` alone where that is asked for."""
    if smollm2.cached_folder():
        print(json.dumps(measure_terms(REAL_VOCABULARY, 2)), flush=True)
    if only == "smollm2":
        return
    for vocabulary, rounds in ((4096, ROUNDS), (32_000, 3)):
        print(json.dumps(measure_terms(vocabulary, rounds)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:2])
