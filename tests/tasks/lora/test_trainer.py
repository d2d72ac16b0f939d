from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pyarrow.parquet as pq
import pytest

from storage.checkpoint import list_checkpoints, read_state
from storage.errors import ParameterError, StoreError
from storage.manifest import digest_of
from tasks.lora.trainer import train
from tests.tasks.lora.tiny_model import tiny_recipe, write_base

DIGEST = digest_of("tiny")


class Events(list[dict[str, Any]]):
    """Collects events as the parent would see them."""

    def __call__(self, event: str, **fields: Any) -> None:
        self.append({"event": event, **fields})

    def of(self, event: str) -> list[dict[str, Any]]:
        return [entry for entry in self if entry["event"] == event]


@pytest.fixture(scope="module")
def finished(
    base: Path, mixture: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Events, dict[str, Any]]:
    run = tmp_path_factory.mktemp("runs") / "one"
    events = Events()
    result = train(run, mixture, DIGEST, tiny_recipe(base, max_steps=9, keep_last=2), events)
    return run, events, result


def test_a_run_learns_and_says_so(finished: tuple[Path, Events, dict[str, Any]]) -> None:
    run, events, result = finished
    assert result["steps"] == 9
    assert result["adapter"] == "checkpoint-9"
    assert result["valid_ce_after"] < result["valid_ce_before"] - 0.3
    assert result["valid_objective_after"] < result["valid_objective_before"]
    assert result["best"]["step"] == 9
    assert json.loads((run / "result.json").read_text("utf-8")) == result
    assert [entry["step"] for entry in events.of("validation")] == [0, 3, 6, 9]
    assert [entry["step"] for entry in events.of("checkpoint")] == [3, 6, 9]
    assert [entry["step"] for entry in events.of("progress")] == [2, 3, 4, 6, 8, 9]
    assert [step for step, _ in list_checkpoints(run)] == [6, 9], "keep_last = 2"


def test_total_is_ce_plus_lambda_distrust_and_z_times_the_minimised_loss(
    finished: tuple[Path, Events, dict[str, Any]],
) -> None:
    _, events, _ = finished
    for entry in events.of("progress"):
        assert entry["total"] == pytest.approx(entry["ce"] + entry["distrust"])
        assert entry["tokens_per_second"] > 0
        assert entry["peak_memory_gb"] > 0


def test_log_and_metrics(finished: tuple[Path, Events, dict[str, Any]]) -> None:
    run, _, _ = finished
    log = (run / "training.log").read_text("utf-8")
    assert "Trainable parameters: 4,096 / 26,848 (15.26%)" in log
    assert "Training: 100% | 9/9 [" in log
    assert "distrust=" in log
    rows = pq.read_table(run / "metrics.parquet").to_pylist()
    assert [(row["step"], row["kind"]) for row in rows if row["kind"] == "valid"] == [
        (n, "valid") for n in (0, 3, 6, 9)
    ]
    assert [row["step"] for row in rows if row["kind"] == "train"] == [2, 3, 4, 6, 8, 9]
    assert all(row["valid_ce_low"] and row["valid_ce_high"] for row in rows if row["kind"] == "valid")


def test_run_record_holds_what_evaluation_and_export_need(
    finished: tuple[Path, Events, dict[str, Any]], base: Path, mixture: Path
) -> None:
    record = json.loads((finished[0] / "run.json").read_text("utf-8"))
    assert record["model_path"] == str(base.resolve())
    assert record["model"] == finished[2]["model"] == base.name, "no path of this machine is passed on"
    assert record["balanced"] == str(mixture.resolve())
    assert record["mixture_digest"] == DIGEST
    assert record["Z"] > 1
    assert 0 < record["effective_sample_share"] < 1
    assert record["recipe"]["lora_rank"] == 4


def test_the_checkpoint_opens_with_mlx_lm(finished: tuple[Path, Events, dict[str, Any]], base: Path) -> None:
    from mlx_lm import load

    run, _, result = finished
    tuned, tokenizer = load(str(base), adapter_path=str(run / result["adapter"]))
    plain, _ = load(str(base))
    tokens = mx.array([tokenizer.encode("User: What is known about gallium?\n\nAssistant:")])
    assert float(mx.abs(tuned(tokens) - plain(tokens)).max()) > 0.5
    config = json.loads((run / result["adapter"] / "adapter_config.json").read_text("utf-8"))
    assert config["fine_tune_type"] == "lora"
    assert config["num_layers"] == 2
    assert config["lora_parameters"]["scale"] == 2.0


def test_a_second_run_repeats_nothing(finished: tuple[Path, Events, dict[str, Any]], base: Path, mixture: Path) -> None:
    run, _, result = finished
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    events = Events()
    assert train(run, mixture, DIGEST, tiny_recipe(base, max_steps=9, keep_last=2), events) == result
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    assert [entry["event"] for entry in events] == ["log"]


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
    finished: tuple[Path, Events, dict[str, Any]],
    base: Path,
    mixture: Path,
    changes: dict[str, Any],
    digest: str,
    error: type[Exception],
    named: str,
) -> None:
    run = finished[0]
    with pytest.raises(error, match=named):
        train(run, mixture, digest, tiny_recipe(base, **({"max_steps": 9} | changes)), Events())
    assert list_checkpoints(run)[-1] == (9, run / "checkpoint-9")


def test_other_base_weights_of_the_same_name_are_refused(mixture: Path, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    recipe = tiny_recipe(base, max_steps=1, val_batches=0)
    result = train(tmp_path / "run", mixture, DIGEST, recipe, Events())
    assert result["best"] is None
    weights = (base / "model.safetensors").read_bytes()
    (base / "model.safetensors").write_bytes(weights[:-4] + b"\0\0\0\0")
    with pytest.raises(StoreError, match="other base weights of the same name"):
        train(tmp_path / "run", mixture, DIGEST, recipe.model_copy(update={"max_steps": 2}), Events())
    (base / "model.safetensors").write_bytes(weights)
    config = json.loads((base / "config.json").read_text("utf-8"))
    (base / "config.json").write_text(json.dumps(config | {"rope_theta": 5000.0}), "utf-8")
    with pytest.raises(StoreError, match="other base weights of the same name"):
        train(tmp_path / "run", mixture, DIGEST, recipe.model_copy(update={"max_steps": 2}), Events())


def test_a_damaged_checkpoint_is_passed_over(base: Path, mixture: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    recipe = tiny_recipe(base, max_steps=6, save_every=2, val_batches=0)
    train(run, mixture, DIGEST, recipe, Events())
    straight = mx.load(str(run / "checkpoint-6" / "adapters.safetensors"))
    (run / "checkpoint-6" / "state.json").write_text("{", "utf-8")
    moments = run / "checkpoint-4" / "optimizer.safetensors"
    moments.write_bytes(moments.read_bytes()[:-8] + b"12345678")
    with pytest.raises(StoreError, match=r"checkpoint-4 is damaged \(optimizer.safetensors\)"):
        train(run, mixture, DIGEST, recipe.model_copy(update={"resume_from": "checkpoint-4", "max_steps": 7}), Events())
    (run / "result.json").unlink()
    events = Events()
    train(run, mixture, DIGEST, recipe, events)
    told = [entry["message"] for entry in events.of("log")]
    assert "checkpoint-6 is damaged (state.json); an older checkpoint is used" in told
    assert "checkpoint-4 is damaged (optimizer.safetensors); an older checkpoint is used" in told
    assert any("Resuming" in line and "at step 2" in line for line in told)
    again = mx.load(str(run / "checkpoint-6" / "adapters.safetensors"))
    assert all(bool(mx.array_equal(straight[name], again[name])) for name in straight)


def test_named_checkpoint_and_longer_run(base: Path, mixture: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(run, mixture, DIGEST, tiny_recipe(base, max_steps=2, save_every=1), Events())
    events = Events()
    longer = tiny_recipe(base, max_steps=4, save_every=1, resume_from="checkpoint-1")
    result = train(run, mixture, DIGEST, longer, events)
    assert [entry["step"] for entry in events.of("checkpoint")] == [2, 3, 4]
    assert result["adapter"] == "checkpoint-4"
    assert any("at step 1" in entry["message"] for entry in events.of("log"))
    again = Events()
    train(run, mixture, DIGEST, longer.model_copy(update={"max_steps": 5}), again)
    assert [entry["step"] for entry in again.of("checkpoint")] == [5], "its own newest checkpoint comes first"


def test_a_loss_that_is_not_finite_stops_the_run(base: Path, mixture: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(base, max_steps=14, save_every=2)
    train(tmp_path / "run", mixture, DIGEST, recipe.model_copy(update={"max_steps": 2}), Events())
    file = tmp_path / "run" / "checkpoint-2" / "adapters.safetensors"
    mx.save_safetensors(str(file), {name: value * float("inf") for name, value in mx.load(str(file)).items()})
    state = json.loads((file.parent / "state.json").read_text("utf-8"))
    state["files"]["adapters.safetensors"] = hashlib.sha256(file.read_bytes()).hexdigest()
    (file.parent / "state.json").write_text(json.dumps(state), "utf-8")
    events = Events()
    with pytest.raises(ParameterError, match=r"10 steps in a row .* lower learning_rate, for example"):
        train(tmp_path / "run", mixture, DIGEST, recipe, events)
    skipped = [entry["message"] for entry in events.of("log") if "skipped" in entry["message"]]
    assert skipped[0] == "Step 3 skipped: its loss or gradient is not finite"
    assert len(skipped) == 10
    assert read_state(file.parent) == state, "the last checkpoint is kept"


def test_thermal_pause_comes_after_each_micro_batch(
    base: Path, mixture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("tasks.lora.trainer.time.sleep", pauses.append)
    recipe = tiny_recipe(base, max_steps=2, grad_accum=3, thermal_throttle=0.1, val_batches=0)
    train(tmp_path / "run", mixture, DIGEST, recipe, Events())
    assert pauses == [0.1] * 6


def test_weighting_turns_the_model_towards_primary_sources(base: Path, mixture: Path, tmp_path: Path) -> None:
    def gap(name: str, **changes: Any) -> float:
        recipe = tiny_recipe(base, max_steps=12, save_every=12, eval_every=12, val_batches=-1, **changes)
        result = train(tmp_path / name, mixture, DIGEST, recipe, Events())
        return float(result["valid_ce_high_after"] - result["valid_ce_low_after"])

    plain = gap("plain", lambda_weight=0.0)
    assert gap("additive", objective="additive") == plain
    assert gap("weighted") > plain + 0.2
    assert gap("importance", sampling="importance") > plain + 0.2


def test_a_log_is_not_written_through_a_link(base: Path, mixture: Path, tmp_path: Path) -> None:
    run, outside = tmp_path / "run", tmp_path / "outside"
    run.mkdir()
    outside.write_text("mine")
    (run / "training.log").symlink_to(outside)
    with pytest.raises(StoreError, match=r"training\.log is a link, and its target is not written to"):
        train(run, mixture, DIGEST, tiny_recipe(base, max_steps=1), Events())
    assert outside.read_text() == "mine"
