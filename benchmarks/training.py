"""The loop against mlx-lm's own trainer in the same process: tokens a second, peak memory, cost of the cadence.

Real tokens are counted, not padding; both train the same adapter on the same random llama and the same documents. This
project's step carries sample weights, clipping and the gradient's norm, which its peer does not do. The peer's first
batch of each shape, which it compiles, is not timed. Speeds are ratios of alternating rounds. One JSON line each.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from storage import blas

blas.load()

import mlx.core as mx  # noqa: E402
import numpy as np  # noqa: E402
from mlx_lm.models.llama import Model, ModelArgs  # noqa: E402
from mlx_lm.tuner import trainer as peer  # noqa: E402
from mlx_lm.tuner.datasets import CacheDataset  # noqa: E402

from sandbox import smollm2  # noqa: E402
from storage.checkpoint import write_checkpoint  # noqa: E402
from tasks.lora.adapter import attach_adapter, save_adapter  # noqa: E402
from tasks.lora.base_model import load_base  # noqa: E402
from tasks.lora.batches import BatchPlan, BatchStream, WeightedSequences  # noqa: E402
from tasks.lora.recipe import Recipe  # noqa: E402
from tasks.lora.resume import save_optimizer  # noqa: E402
from tasks.lora.samples import TokenSequences  # noqa: E402
from tasks.lora.step import TrainingStep, make_optimizer  # noqa: E402
from tasks.lora.validation import validate  # noqa: E402

ROUNDS = 2
ROWS = 8
LONGEST = 256
REAL_VOCABULARY = 49_152
"""Tokens that SmolLM2 knows."""


def make_model(vocabulary: int, layers: int = 2, features: int = 256) -> tuple[Model, Recipe]:
    """Make a random llama with rank 8 on all layers; with its own vocabulary, SmolLM2-135M-Instruct and the last 8."""
    mx.random.seed(0)
    if vocabulary == REAL_VOCABULARY:
        model = load_base(smollm2.model_folder()).model
    else:
        model = Model(
            ModelArgs(
                model_type="llama",
                hidden_size=features,
                num_hidden_layers=layers,
                intermediate_size=3 * features,
                num_attention_heads=4,
                num_key_value_heads=4,
                rms_norm_eps=1e-5,
                vocab_size=vocabulary,
                tie_word_embeddings=True,
            )
        )
    recipe = Recipe(
        lora_rank=8,
        lora_alpha=16,
        lora_layers=8 if vocabulary == REAL_VOCABULARY else -1,
        batch_size=ROWS,
        batch_tokens=ROWS * LONGEST,
        grad_accum=1,
        max_seq_length=LONGEST,
        grad_checkpoint=False,
    )
    attach_adapter(model, recipe)
    return model.train(), recipe


def make_data(lengths: np.ndarray[Any, Any], vocabulary: int) -> WeightedSequences:
    rng = np.random.default_rng(1)
    count = len(lengths)
    sequences = TokenSequences(
        tokens=rng.integers(1, vocabulary, int(lengths.sum())).astype(np.int32),
        starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        first_targets=np.ones(count, np.int32),
        auth_weights=rng.uniform(0, 0.99, count).astype(np.float32),
        prov_entropies=rng.uniform(0, 10, count).astype(np.float32),
        samples=count,
    )
    weights = rng.uniform(0.1, 3.0, count).astype(np.float32)
    return WeightedSequences(sequences, weights, weights)


class Documents:
    """Documents as ``mlx_lm.lora`` holds them: records that its cache turns into tokens."""

    def __init__(self, data: WeightedSequences) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        return {"text": self._data.sequences.sequence(index).tolist()}

    def process(self, record: dict[str, list[int]]) -> tuple[list[int], int]:
        """Return tokens, and the first one that is supervised."""
        return record["text"], 0


class Shapes:
    """The peer's batches, with the shape of each noted."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        for batch in peer.iterate_batches(*args, **kwargs):
            self.seen.append(batch[0].shape[1])
            yield batch


class Reports(peer.TrainingCallback):
    """Tokens and seconds of each of the peer's steps."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, float]] = []
        self._began = time.process_time()
        self.peak = 0.0
        self._tokens = 0

    def on_train_loss_report(self, train_info: dict[str, Any]) -> None:
        tokens, self._tokens = train_info["trained_tokens"] - self._tokens, train_info["trained_tokens"]
        # It counts one padding target for each row.
        now = time.process_time()
        self.steps.append((tokens - ROWS, now - self._began))
        self._began = now
        self.peak = train_info["peak_memory"]


def run_peer(data: WeightedSequences, vocabulary: int, steps: int, **sizes: int) -> tuple[float, float]:
    """Return the peer's real tokens per second and its peak memory in MB."""
    gc.collect()
    mx.clear_cache()
    model, recipe = make_model(vocabulary, **sizes)
    documents = CacheDataset(Documents(data))
    shapes, reports = Shapes(), Reports()
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()):
        arguments = peer.TrainingArgs(
            batch_size=ROWS,
            iters=steps,
            steps_per_report=1,
            steps_per_save=10**9,
            max_seq_length=LONGEST + 1,
            adapter_file=str(Path(folder) / "adapters.safetensors"),
        )
        mx.reset_peak_memory()
        np.random.seed(0)
        optimizer = make_optimizer(recipe)
        peer.train(model, optimizer, documents, None, arguments, iterate_batches=shapes, training_callback=reports)
    known: set[int] = set()
    timed = []
    for width, step in zip(shapes.seen, reports.steps, strict=False):
        if width in known:
            timed.append(step)
        known.add(width)
    return sum(tokens for tokens, _ in timed) / sum(seconds for _, seconds in timed), reports.peak * 1e3


def run_own(data: WeightedSequences, vocabulary: int, steps: int, budget: bool, **sizes: int) -> tuple[float, float]:
    """Return this project's real tokens per second and its peak memory in MB."""
    gc.collect()
    mx.clear_cache()
    model, recipe = make_model(vocabulary, **sizes)
    if not budget:
        recipe = recipe.model_copy(update={"batch_tokens": None})
    stream = BatchStream(data, BatchPlan.of(recipe))
    mx.reset_peak_memory()
    step = TrainingStep(model, make_optimizer(recipe), recipe)
    step.accumulate(stream.batch(0))
    step.update(1e-4)
    tokens, cursor, began = 0, 0, time.process_time()
    while cursor < steps:
        batch = stream.batch(cursor)
        step.accumulate(batch)
        step.update(1e-4)
        step.read_window()
        tokens += batch.real_tokens
        cursor += 1
    return tokens / (time.process_time() - began), mx.get_peak_memory() / 1e6


def compare(
    name: str,
    data: WeightedSequences,
    vocabulary: int,
    steps: int,
    rounds: int = ROUNDS,
    own_steps: int = 10,
    budget: bool = False,
    **sizes: int,
) -> dict[str, Any]:
    """Alternate the two trainers."""
    own, other = [], []
    for _ in range(rounds):
        other.append(run_peer(data, vocabulary, steps, **sizes))
        own.append(run_own(data, vocabulary, own_steps, budget, **sizes))
    ours, theirs = np.median(own, axis=0), np.median(other, axis=0)
    return {
        "benchmark": "training",
        "case": name,
        "own_tokens_per_second": round(float(ours[0])),
        "mlx_lm_tokens_per_second": round(float(theirs[0])),
        "speed_ratio": round(float(ours[0] / theirs[0]), 2),
        "own_peak_mb": round(float(ours[1])),
        "mlx_lm_peak_mb": round(float(theirs[1])),
        "memory_ratio": round(float(ours[1] / theirs[1]), 2),
    }


def cadence() -> dict[str, Any]:
    """Measure what a checkpoint and a validation cost against the steps between two of them, at the defaults."""
    model, _ = make_model(4096)
    recipe = Recipe(lora_rank=8, lora_layers=-1, max_seq_length=LONGEST)
    data = make_data(np.random.default_rng(0).integers(8, LONGEST, 64), 4096)
    stream = BatchStream(data, BatchPlan.of(recipe))
    optimizer = make_optimizer(recipe)
    adapter = attach_adapter(Model(model.args), recipe)
    step = TrainingStep(model, optimizer, recipe)
    steps = 3
    began = time.process_time()
    for cursor in range(steps * recipe.grad_accum):
        step.accumulate(stream.batch(cursor))
        if (cursor + 1) % recipe.grad_accum == 0:
            step.update(1e-4)
    step_seconds = (time.process_time() - began) / steps
    began = time.process_time()
    validate(model, data, recipe)
    validation_seconds = (time.process_time() - began) * recipe.val_batches * recipe.batch_size / len(data)

    def write_files(folder: Path) -> None:
        save_adapter(folder, model, adapter, recipe)
        save_optimizer(folder, optimizer)

    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        write_checkpoint(Path(folder), 1, write_files, {})
        checkpoint_seconds = time.process_time() - began
    share = checkpoint_seconds / (recipe.save_every * step_seconds)
    share += validation_seconds / (recipe.eval_every * step_seconds)
    return {
        "benchmark": "training",
        "case": "checkpoint and validation at the default cadence",
        "step_seconds": round(step_seconds, 3),
        "validation_seconds": round(validation_seconds, 3),
        "checkpoint_seconds": round(checkpoint_seconds, 3),
        "share_of_run": round(share, 5),
    }


def main(only: str = "") -> None:
    """Measure and print; ``smollm2`` alone where that is asked for."""
    if smollm2.cached_folder():
        real = make_data(np.full(8, LONGEST + 1), REAL_VOCABULARY)
        found = compare("SmolLM2-135M, equal settings", real, REAL_VOCABULARY, 3, own_steps=2)
        print(json.dumps(found), flush=True)
    if only == "smollm2":
        return
    rng = np.random.default_rng(7)
    mixed = np.clip(rng.lognormal(4.2, 0.9, 2000), 8, LONGEST).astype(np.int64)
    equal = np.full(48, 129)
    print(json.dumps(compare("8 to 256 tokens", make_data(mixed, 4096), 4096, 24, budget=True)), flush=True)
    print(json.dumps(compare("129 tokens each", make_data(equal, 4096), 4096, 7)), flush=True)
    long = np.full(8, LONGEST + 1)
    print(json.dumps(compare("equal settings", make_data(long, 4096), 4096, 2, rounds=1)), flush=True)
    wide = make_data(long, 32_000)
    print(json.dumps(compare("vocabulary 32,000", wide, 32_000, 2, rounds=1, features=128)), flush=True)
    print(json.dumps(cadence()), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:2])
