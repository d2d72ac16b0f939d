from __future__ import annotations

import hashlib
import json
import threading
import time
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm import load

from storage.checkpoint import list_checkpoints
from storage.errors import ParameterError, StoreError
from storage.manifest import digest_of
from storage.training_result import TrainingResult
from tasks.lora.trainer import train
from tests.tasks.lora.running import DIGEST, Events, rows, steps_of, tensors, train_here
from tests.tasks.lora.tiny_model import tiny_recipe, write_base

Finished = tuple[Path, Events, TrainingResult]


@pytest.fixture(scope="module")
def finished(base: Path, mixture: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    run, events = tmp_path_factory.mktemp("runs") / "one", Events()
    return run, events, train_here(run, mixture, tiny_recipe(base, max_steps=9, keep_last=2), events)


def test_a_run_learns_and_reports_it(finished: Finished) -> None:
    run, events, result = finished
    assert (result.steps, result.adapter) == (9, "checkpoint-9")
    assert result.valid_ce_after < result.valid_ce_before - 0.3
    assert result.valid_objective_after < result.valid_objective_before
    assert result.best.step == 9
    assert events.steps("validation") == [0, 3, 6, 9] == [row["step"] for row in rows(run, "valid")]
    assert events.steps("checkpoint") == [3, 6, 9]
    assert events.steps() == [2, 3, 4, 6, 8, 9] == [row["step"] for row in rows(run, "train")]
    assert steps_of(run) == [6, 9], "keep_last = 2"
    assert all(row["valid_ce_low"] and row["valid_ce_high"] for row in rows(run, "valid"))
    for entry in events.of("progress"):
        assert entry["total"] == pytest.approx(entry["ce"] + entry["distrust"])
        assert entry["tokens_per_second"] > 0 and entry["peak_memory_gb"] > 0
    log = (run / "training.log").read_text("utf-8")
    assert "Trainable parameters: 4,096 / 26,848 (15.26%)" in log
    assert "Training: 100% | 9/9 [" in log and "distrust=" in log


def test_the_record_and_the_result_hold_what_evaluation_and_export_need(
    finished: Finished, base: Path, mixture: Path
) -> None:
    run, _, result = finished
    record, written = (json.loads((run / name).read_text("utf-8")) for name in ("run.json", "result.json"))
    assert TrainingResult.model_validate(written) == result
    assert record["model_path"] == str(base.resolve())
    assert record["model"] == result.model == base.name, "no path of this machine is passed on"
    assert (record["balanced"], record["mixture_digest"]) == (str(mixture.resolve()), DIGEST)
    assert record["Z"] > 1 and 0 < record["effective_sample_share"] < 1
    assert record["recipe"]["lora_rank"] == 4
    assert json.dumps(written["length"]) == '{"max_steps": 9}', "a whole number stays one"
    assert "valid_ce_medium_after" not in written, "a band without samples"


def test_terms_are_learned_and_reported_each_by_its_own_loss(base: Path, taught_mixture: Path, tmp_path: Path) -> None:
    weights: dict[str, Any] = {"preference_weight": 1, "consistency_weight": 20, "anchor_weight": 0.5}
    events = Events()
    recipe = tiny_recipe(base, max_steps=9, eval_every=9, val_batches=-1, **weights)
    result = train_here(tmp_path / "run", taught_mixture, recipe, events)
    assert "Term preference (weight 1): 10 pairs of answers, 10 to validate" in events.lines()
    assert "Term consistency (weight 20): 5 repeated claims, 5 to validate" in events.lines()
    assert result.valid_preference_after < result.valid_preference_before / 2
    assert result.valid_consistency_after < result.valid_consistency_before
    assert result.valid_anchor_before < 1e-6 < result.valid_anchor_after, "at the start, the model is its base"
    for row in rows(tmp_path / "run", "valid"):
        terms = sum(weight * row[f"valid_{name.split('_')[0]}"] for name, weight in weights.items())
        assert row["valid_objective"] > terms, "the objective that chooses the best step counts the terms"
    assert events.of("progress")[-1]["terms"].keys() == {"preference", "consistency", "anchor"}
    assert "preference=" in (tmp_path / "run" / "training.log").read_text("utf-8")


def assert_opens_with_mlx_lm(base: Path, checkpoint: Path, kind: str) -> dict[str, Any]:
    tuned, tokenizer = load(str(base), adapter_path=str(checkpoint))
    plain, _ = load(str(base))
    tokens = mx.array([tokenizer.encode("User: What is known about gallium?\n\nAssistant:")])
    assert float(mx.abs(tuned(tokens) - plain(tokens)).max()) > 0.1
    config: dict[str, Any] = json.loads((checkpoint / "adapter_config.json").read_text("utf-8"))
    assert config["fine_tune_type"] == kind
    return config


def test_the_checkpoint_opens_with_mlx_lm(finished: Finished, base: Path) -> None:
    config = assert_opens_with_mlx_lm(base, finished[0] / "checkpoint-9", "lora")
    assert config["num_layers"] == 2 and config["lora_parameters"]["scale"] == 2.0


def test_a_second_run_repeats_nothing(finished: Finished, base: Path, mixture: Path) -> None:
    run, _, result = finished
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    events = Events()
    assert train_here(run, mixture, tiny_recipe(base, max_steps=9, keep_last=2), events) == result
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    assert len(events) == 1 and "is finished already" in events.lines()[0]


@pytest.mark.parametrize(
    ("changes", "digest", "error", "named"),
    [
        ({"alpha": 2.9, "lora_rank": 8}, DIGEST, ParameterError, r"alpha was 2\.7, is 2\.9; lora_rank was 4, is 8"),
        ({}, digest_of("other"), StoreError, "trained on another mixture"),
        ({"max_steps": 4}, DIGEST, ParameterError, "is at step 9, beyond max_steps 4"),
        ({"resume_from": "checkpoint-7", "max_steps": 12}, DIGEST, StoreError, "the newest is checkpoint-9"),
    ],
)
def test_a_checkpoint_is_not_continued_otherwise(
    finished: Finished, base: Path, mixture: Path, changes: dict[str, Any], digest: str, error: Any, named: str
) -> None:
    run = finished[0]
    with pytest.raises(error, match=named):
        train(run, mixture, digest, tiny_recipe(base, **({"max_steps": 9} | changes)), Events())
    assert list_checkpoints(run)[-1] == (9, run / "checkpoint-9")


def test_other_base_weights_of_the_same_name_are_refused(mixture: Path, tmp_path: Path) -> None:
    base, run = write_base(tmp_path / "base"), tmp_path / "run"
    recipe = tiny_recipe(base, max_steps=1, val_batches=0)
    assert train_here(run, mixture, recipe).best is None
    weights = (base / "model.safetensors").read_bytes()
    (base / "model.safetensors").write_bytes(weights[:-4] + b"\0\0\0\0")
    with pytest.raises(StoreError, match="other base weights of the same name"):
        train_here(run, mixture, recipe.model_copy(update={"max_steps": 2}))


def test_a_loss_that_is_not_finite_stops_the_run(base: Path, mixture: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(base, max_steps=14, save_every=2)
    train_here(tmp_path / "run", mixture, recipe.model_copy(update={"max_steps": 2}))
    file = tmp_path / "run" / "checkpoint-2" / "adapters.safetensors"
    mx.save_safetensors(str(file), {name: value * float("inf") for name, value in mx.load(str(file)).items()})
    state = json.loads((file.parent / "state.json").read_text("utf-8"))
    state["files"]["adapters.safetensors"] = hashlib.sha256(file.read_bytes()).hexdigest()
    (file.parent / "state.json").write_text(json.dumps(state), "utf-8")
    events = Events()
    with pytest.raises(ParameterError, match=r"10 steps in a row .* lower learning_rate, for example"):
        train_here(tmp_path / "run", mixture, recipe, events)
    skipped = [line for line in events.lines() if "skipped" in line]
    assert skipped[0] == "Step 3 skipped: its loss or gradient is not finite"
    assert len(skipped) == 10
    assert json.loads((file.parent / "state.json").read_text("utf-8")) == state, "the last checkpoint is kept"


def test_thermal_pause_comes_after_each_micro_batch(
    base: Path, mixture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    sleep, trainer = time.sleep, threading.current_thread()

    def paused(seconds: float) -> None:  # threads that other tests have left behind sleep as ever
        pauses.append(seconds) if threading.current_thread() is trainer else sleep(seconds)

    monkeypatch.setattr("tasks.lora.trainer.time.sleep", paused)
    recipe = tiny_recipe(base, max_steps=2, grad_accum=3, thermal_throttle=0.1, val_batches=0)
    train_here(tmp_path / "run", mixture, recipe)
    assert pauses == [0.1] * 6


def test_weighting_turns_the_model_towards_primary_sources(base: Path, mixture: Path, tmp_path: Path) -> None:
    def gap(name: str, **changes: Any) -> float:
        recipe = tiny_recipe(base, max_steps=12, save_every=12, eval_every=12, val_batches=-1, **changes)
        result = train_here(tmp_path / name, mixture, recipe)
        return float(result.valid_ce_high_after - result.valid_ce_low_after)

    plain = gap("plain", lambda_weight=0.0)
    assert gap("weighted") > plain + 0.2
    assert gap("importance", sampling="importance") > plain + 0.2


def test_a_log_is_not_written_through_a_link(base: Path, mixture: Path, tmp_path: Path) -> None:
    run, outside = tmp_path / "run", tmp_path / "outside"
    run.mkdir()
    outside.write_text("mine")
    (run / "training.log").symlink_to(outside)
    with pytest.raises(StoreError, match=r"training\.log is a link, and nothing is written through links"):
        train_here(run, mixture, tiny_recipe(base, max_steps=1))
    assert outside.read_text() == "mine"


def test_a_run_of_epochs_ends_with_them_and_is_finished(base: Path, mixture: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(base, epochs=1.5, batch_size=4, grad_accum=2)
    result = train_here(tmp_path / "run", mixture, recipe)
    assert result.steps == -(-(1.5 * -(-result.train_sequences // 4)) // 2)
    events = Events()
    assert train_here(tmp_path / "run", mixture, recipe, events) == result and len(events) == 1
    longer = train_here(tmp_path / "run", mixture, recipe.model_copy(update={"epochs": 2.0}))
    assert longer.steps > result.steps


def test_dora_trains_resumes_and_opens_with_mlx_lm(base: Path, mixture: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"lora_type": "dora", "lora_dropout": 0.1, "grad_checkpoint": True, "save_every": 2}
    settings |= {"lr_schedule": "constant"}
    straight, run = tmp_path / "straight", tmp_path / "run"
    result = train_here(straight, mixture, tiny_recipe(base, max_steps=4, **settings))
    assert result.valid_ce_after < result.valid_ce_before
    for steps in (2, 4):
        train_here(run, mixture, tiny_recipe(base, max_steps=steps, **settings))
    expected, found = tensors(straight, 4), tensors(run, 4)
    assert any(name.endswith(".m") for name in expected)
    assert all(bool(mx.array_equal(expected[name], found[name])) for name in expected)
    assert_opens_with_mlx_lm(base, run / "checkpoint-4", "dora")
