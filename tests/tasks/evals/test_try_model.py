from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from flows.__main__ import main as flows_main
from flows.__main__ import usage
from storage.layout import Layout
from storage.training_result import read_training_result
from tasks.evals.model_under_test import load_model
from tasks.evals.try_model import PROMPTS, load_run, main

PROMPT = "Which source is most reliable for tea?"


@pytest.fixture
def store(run_folder: Path, base_model: Path, balanced_folder: Path, tmp_path: Path) -> Path:
    """A store with the finished run `first`."""
    run = tmp_path / "runs" / "first"
    run.mkdir(parents=True)
    (run / "checkpoint-3").symlink_to(run_folder / "checkpoint-3")
    (run / "run.json").write_text(json.dumps({"balanced": str(balanced_folder)}))
    result = {"adapter": "checkpoint-3", "model_path": str(base_model), "steps": 3, "recipe_digest": "r"}
    (run / "result.json").write_text(json.dumps(result | {"data_digest": "d"}))
    return tmp_path


def test_one_model_answers_as_base_and_as_adapter(store: Path, base_model: Path, run_folder: Path) -> None:
    tried = load_run(Layout.of(str(store)), "first")
    for _ in range(2):  # setting the adapter aside leaves no trace
        for adapter in (None, run_folder / "checkpoint-3"):
            alone = load_model(str(base_model), adapter)
            expected = alone.generate([PROMPT], 8)[0]
            answered = "".join(tried.stream(PROMPT, 8, 0.0, adapted=adapter is not None))
            assert answered.strip() == expected.strip()


def test_prompts_of_the_command_line_are_answered_by_both(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--store", str(store), "--run", "first", "--prompt", PROMPT, "--max-new-tokens", "4"]) == 0
    out = capsys.readouterr().out
    assert out.index(f">>> {PROMPT}") < out.index("[base]") < out.index("[adapter]")
    assert main(["--store", str(store), "--run", "first", "--guide", "--only", "adapter", "--max-new-tokens", "2"]) == 0
    out = capsys.readouterr().out
    assert all(prompt in out for prompt in PROMPTS) and "[base]" not in out


def test_typed_prompts_are_answered_until_an_empty_line(store: Path) -> None:
    command = [sys.executable, "-m", "flows", "try-model", "--store", str(store), "--run", "first"]
    done = subprocess.run(
        [*command, "--max-new-tokens", "2"], input="Why?\nHow?\n\nnever asked\n", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert ">>> Why?" in done.stdout and ">>> How?" in done.stdout and "never asked" not in done.stdout


def change_result(store: Path, **changes: str) -> None:
    path = store / "runs" / "first" / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def write_foreign_adapter(folder: Path) -> None:
    """Write the adapter of a model with wider layers."""
    import mlx.core as mx

    folder.mkdir()
    settings = {"rank": 2, "scale": 2.0, "dropout": 0.0}
    (folder / "adapter_config.json").write_text(
        json.dumps({"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": settings})
    )
    weights = {"model.layers.0.self_attn.q_proj.lora_a": mx.zeros((4096, 2))}
    mx.save_safetensors(str(folder / "adapters.safetensors"), weights)


def test_what_is_not_there_is_told(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--store", str(store), "--run", "second"]) == 1
    assert "finish it first" in capsys.readouterr().err
    assert main(["--store", str(store), "--run", "first", "--checkpoint", "checkpoint-9"]) == 1
    assert "does not have checkpoint-9; it has checkpoint-3" in capsys.readouterr().err
    base = read_training_result(store / "runs" / "first").model_path
    change_result(store, model_path=str(store / "removed"))
    assert main(["--store", str(store), "--run", "first"]) == 1
    assert f"no model at {store / 'removed'}" in capsys.readouterr().err
    change_result(store, model_path=str(base), adapter="checkpoint-4")
    write_foreign_adapter(store / "runs" / "first" / "checkpoint-4")
    assert main(["--store", str(store), "--run", "first"]) == 1
    assert "checkpoint-4 cannot be loaded" in capsys.readouterr().err
    assert "try-model" in usage() and flows_main(["try-model", "--help"]) == 0
