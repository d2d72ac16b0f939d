"""How long a run lasts, and the two kinds of adapter, from end to end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx

from storage.checkpoint import list_checkpoints
from tasks.lora.trainer import train
from tests.tasks.lora.test_trainer import DIGEST, Events
from tests.tasks.lora.tiny_model import tiny_recipe


def test_a_run_of_epochs_ends_with_them_and_is_finished(base: Path, mixture: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(base, epochs=1.5, batch_size=4, grad_accum=2)
    result = train(tmp_path / "run", mixture, DIGEST, recipe, Events())
    sequences = result["train_sequences"]
    assert result["steps"] == -(-(1.5 * -(-sequences // 4)) // 2)
    events = Events()
    assert train(tmp_path / "run", mixture, DIGEST, recipe, events) == result
    assert "is finished already" in events[0]["message"]
    longer = train(tmp_path / "run", mixture, DIGEST, recipe.model_copy(update={"epochs": 2.0}), Events())
    assert longer["steps"] > result["steps"]


def test_a_run_that_no_longer_learns_stops_early(base: Path, mixture: Path, tmp_path: Path) -> None:
    # At this rate, the objective on the validation set rises soon.
    settings: dict[str, Any] = {"max_steps": 200, "learning_rate": 0.05, "eval_every": 2, "save_every": 50}
    recipe = tiny_recipe(base, early_stop=3, val_batches=-1, **settings)
    events = Events()
    result = train(tmp_path / "run", mixture, DIGEST, recipe, events)
    objectives = [entry["valid_objective"] for entry in events.of("validation")][1:]
    lowest = objectives.index(min(objectives))
    assert result["steps"] < 200 and len(objectives) == lowest + 1 + 3
    assert result["steps"] == events.of("validation")[-1]["step"] == list_checkpoints(tmp_path / "run")[-1][0]
    assert any(entry["message"].startswith("Stopping early: 3 validations") for entry in events.of("log"))
    again = Events()
    assert train(tmp_path / "run", mixture, DIGEST, recipe, again) == result
    assert not again.of("progress")


def test_dora_trains_resumes_and_opens_with_mlx_lm(base: Path, mixture: Path, tmp_path: Path) -> None:
    from mlx_lm import load

    settings: dict[str, Any] = {"lora_type": "dora", "lora_dropout": 0.1, "grad_checkpoint": True, "save_every": 2}
    straight, run = tmp_path / "straight", tmp_path / "run"
    result = train(
        straight, mixture, DIGEST, tiny_recipe(base, max_steps=4, lr_schedule="constant", **settings), Events()
    )
    assert result["valid_ce_after"] < result["valid_ce_before"]
    for steps in (2, 4):
        train(run, mixture, DIGEST, tiny_recipe(base, max_steps=steps, lr_schedule="constant", **settings), Events())
    expected, found = (mx.load(str(folder / "checkpoint-4" / "adapters.safetensors")) for folder in (straight, run))
    assert any(name.endswith(".m") for name in expected)
    assert all(bool(mx.array_equal(expected[name], found[name])) for name in expected)
    config = json.loads((run / "checkpoint-4" / "adapter_config.json").read_text("utf-8"))
    assert config["fine_tune_type"] == "dora"
    tuned, tokenizer = load(str(base), adapter_path=str(run / "checkpoint-4"))
    plain, _ = load(str(base))
    tokens = mx.array([tokenizer.encode("User: What is known about gallium?\n\nAssistant:")])
    assert float(mx.abs(tuned(tokens) - plain(tokens)).max()) > 0.1
