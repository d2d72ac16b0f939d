"""The presets at their real sizes, on a GPU: predicted peak and the measured one, and speed beside mlx-lm's trainer.

Weights are random, in 4 bits as they are trained; batches are full, hence as dear as a plan takes them to be. Both
trainers run the same adapter on the same tokens with the same gradient checkpointing. A machine without a GPU says so
and measures nothing; presets above its memory are left out. One JSON line each.

    python -m benchmarks.presets [PRESET ...]
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

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.models.llama import Model, ModelArgs
from mlx_lm.tuner import trainer as peer

from tasks.lora.adapter import attach_adapter, checkpoint_activations
from tasks.lora.batches import Batch
from tasks.lora.memory import plan_memory
from tasks.lora.presets import Preset, load_presets, resolve_model
from tasks.lora.process import limit_memory, training_limit_bytes
from tasks.lora.recipe import Recipe
from tasks.lora.step import TrainingStep, make_optimizer

WARM, TIMED = 2, 4
"""Micro-batches before and within the measured time."""
GROUP, BITS = 64, 4


def random_base(preset: Preset) -> nn.Module:
    """Make the preset's model with random 4-bit weights, a tensor at a time."""
    mx.random.seed(0)
    # All are llamas here: Qwen's biases and Mistral's window change neither memory nor speed that could be seen.
    model = Model(ModelArgs.from_dict({"model_type": "llama", "rms_norm_eps": 1e-5, **preset.config}))
    model.set_dtype(mx.bfloat16)
    nn.quantize(model, GROUP, BITS)
    for _, tensor in tree_flatten(model.parameters()):
        mx.eval(tensor)
    mx.clear_cache()
    return model


def full_batch(recipe: Recipe, vocabulary: int) -> Batch:
    """Make a micro-batch in which every row is as long as the recipe allows."""
    rows, length = recipe.batch_size, recipe.max_seq_length
    tokens = np.random.default_rng(0).integers(1, vocabulary, (rows, length + 1)).astype(np.int32)
    ones, count = np.ones(rows, np.float32), rows * length
    mask = np.ones((rows, length), np.float32)
    return Batch(tokens, mask, weights=ones, penalties=ones, real_tokens=count, supervised_tokens=count)


def run_own(model: nn.Module, recipe: Recipe, batch: Batch) -> tuple[float, int]:
    """Return this project's tokens a second and its peak in bytes."""
    limit_memory()
    optimizer = make_optimizer(recipe)
    optimizer.init(model.trainable_parameters())
    step = TrainingStep(model, optimizer, recipe)
    mx.clear_cache()
    mx.reset_peak_memory()
    began = 0.0
    for number in range(WARM + TIMED):
        if number == WARM:
            began = time.perf_counter()
        step.accumulate(batch)
        if number % 2:  # two to a step, so that the sum of gradients is held as with the recipe's accumulation
            step.update(1e-4)
    step.read_window()
    return TIMED * batch.real_tokens / (time.perf_counter() - began), int(mx.get_peak_memory())


class Clock(peer.TrainingCallback):  # type: ignore[misc]  # mlx-lm has no types
    """The moment of each of the peer's steps."""

    def __init__(self) -> None:
        self.moments: list[float] = []

    def on_train_loss_report(self, train_info: dict[str, Any]) -> None:
        self.moments.append(time.perf_counter())


def run_peer(model: nn.Module, recipe: Recipe, batch: Batch) -> tuple[float, int]:
    """Return the tokens a second and the peak in bytes of mlx-lm's trainer on the same model and tokens."""

    def batches(*args: Any, **kwargs: Any) -> Iterator[tuple[mx.array, mx.array]]:
        lengths = mx.array([[0, recipe.max_seq_length + 1]] * recipe.batch_size)
        while True:
            yield mx.array(batch.tokens), lengths

    clock = Clock()
    mx.clear_cache()
    mx.reset_peak_memory()
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()):
        arguments = peer.TrainingArgs(
            batch_size=recipe.batch_size,
            iters=WARM + TIMED,
            steps_per_report=1,
            steps_per_save=10**9,
            grad_accumulation_steps=2,
            adapter_file=str(Path(folder) / "adapters.safetensors"),
        )
        none = range(recipe.batch_size)
        peer.train(
            model, make_optimizer(recipe), none, None, arguments, iterate_batches=batches, training_callback=clock
        )
    seconds = clock.moments[-1] - clock.moments[WARM - 1]
    return TIMED * batch.real_tokens / seconds, int(mx.get_peak_memory())


def compare(preset: Preset, changes: dict[str, Any]) -> dict[str, Any]:
    """Train a preset for a few micro-batches with this project and with mlx-lm."""
    recipe = resolve_model(Recipe(model="auto"), preset.memory_gb).model_copy(update=changes)
    batch = full_batch(recipe, preset.config["vocab_size"])
    plan = plan_memory(preset.architecture, recipe)
    results = []
    for run in (run_own, run_peer):
        gc.collect()
        mx.clear_cache()
        model = random_base(preset)
        attach_adapter(model, recipe)
        if recipe.grad_checkpoint:
            checkpoint_activations(model)
        results.append(run(model.train(), recipe, batch))
        del model
    (own, own_peak), (other, other_peak) = results
    return {
        "benchmark": "presets",
        "preset": preset.name,
        "changes": changes,
        "device": str(mx.device_info().get("device_name", "")),
        "batch": f"{recipe.batch_size} x {recipe.max_seq_length}",
        "predicted_gb": round(plan.total / 1e9, 2),
        "measured_gb": round(own_peak / 1e9, 2),
        "predicted_over_measured": round(plan.total / own_peak, 2),
        "own_tokens_per_second": round(own),
        "mlx_lm_tokens_per_second": round(other),
        "speed_ratio": round(own / other, 2),
        "mlx_lm_peak_gb": round(other_peak / 1e9, 2),
    }


CHANGES: tuple[dict[str, Any], ...] = (
    {},
    {"grad_checkpoint": False},
    {"max_seq_length": 4096, "batch_size": 1},
    {"lora_rank": 128, "lora_alpha": 256.0, "lora_layers": -1},
)


def main(names: list[str]) -> None:
    """Measure and print."""
    if mx.default_device() != mx.Device(mx.gpu):
        print(json.dumps({"benchmark": "presets", "skipped": "this machine has no GPU that MLX knows"}))
        return
    limit_bytes = training_limit_bytes()
    for preset in reversed(load_presets().values()):
        if names and preset.name not in names:
            continue
        for changes in CHANGES:
            recipe = resolve_model(Recipe(model="auto"), preset.memory_gb).model_copy(update=changes)
            plan = plan_memory(preset.architecture, recipe)
            if plan.fits(limit_bytes):
                print(json.dumps(compare(preset, changes)), flush=True)
            else:
                left_out = {"benchmark": "presets", "preset": preset.name, "changes": changes}
                needs = f"{plan.total / 1e9:.0f} GB of {limit_bytes / 1e9:.0f}"
                print(json.dumps(left_out | {"skipped": needs}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
