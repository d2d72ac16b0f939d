"""A random llama of two layers, an adapter for it, and a small sealed mixture."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from storage.manifest import Manifest, record_shard, write_manifest
from storage.parquet import write_shard
from storage.schemas import SAMPLE_SCHEMA
from tasks.evals.questions import load_questions
from tests.events import parse_event

PARAMETERS = {
    "eval_limit": 10,
    "max_new_tokens": 8,
    "perplexity_samples": 4,
    "eval_seq_length": 64,
    "eval_batch_size": 64,
    "repetition_facts": 6,
}
CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rms_norm_eps": 1e-5,
    "vocab_size": 400,
    "tie_word_embeddings": True,
    "max_position_embeddings": 512,
    "rope_theta": 10000.0,
    "eos_token_id": 0,
}


def write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=CONFIG["vocab_size"],
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(list(load_questions().prompts.values()), trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>", "pad_token": "<|end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


@pytest.fixture(scope="session")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("model"))


def write_base(folder: Path) -> Path:
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.models.llama import Model, ModelArgs

    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    mx.random.seed(7)
    model = Model(ModelArgs.from_dict(CONFIG))
    weights = {name: mx.random.normal(value.shape) * 0.3 for name, value in tree_flatten(model.parameters())}
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    return folder


@pytest.fixture(scope="session")
def run_folder(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "first", base_model)


def write_run(run: Path, base_model: Path) -> Path:
    """Write a run with `checkpoint-3` (a random adapter) and a few losses."""
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm import load
    from mlx_lm.tuner.utils import linear_to_lora_layers

    checkpoint = run / "checkpoint-3"
    checkpoint.mkdir(parents=True)
    model, _ = load(str(base_model))
    lora = {"rank": 2, "scale": 2.0, "dropout": 0.0}
    model.freeze()
    linear_to_lora_layers(model, 2, lora)
    mx.random.seed(3)
    trained = {name: mx.random.normal(value.shape) for name, value in tree_flatten(model.trainable_parameters())}
    assert trained
    mx.save_safetensors(str(checkpoint / "adapters.safetensors"), trained)
    settings = {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": lora}
    (checkpoint / "adapter_config.json").write_text(json.dumps(settings))
    (run / "run.json").write_text(json.dumps({"model": "tiny llama"}))
    rows = {"step": [1, 2, 3, 3], "kind": ["train"] * 3 + ["valid"], "ce": [5.0, 4.5, 4.25, None]}
    schema = pa.schema([("step", pa.int64()), ("kind", pa.string()), ("ce", pa.float64())])
    write_shard(run / "metrics.parquet", pa.table(rows, schema=schema), schema)
    return run


def sample_table(split: str, authorities: list[float], prompt: str = "Tell me about tea.") -> pa.Table:
    rows = [
        {
            "id": f"{split}:{number}",
            "doc_id": f"{split}:{number}",
            "group_id": f"{split}:{number}",
            "source": "tests",
            "source_type": "unknown",
            "text": f"User: {prompt}\n\nAssistant: " + "The kettle was put on the fire at noon. " * (1 + number % 3),
            "auth_weight": authority,
            "prov_entropy": 8.0 * (1 - authority),
            "trivium_category": ("grammar", "logic", "rhetoric")[number % 3],
            "metadata": "{}",
        }
        for number, authority in enumerate(authorities)
    ]
    return pa.Table.from_pylist(rows, schema=SAMPLE_SCHEMA)


def seal_mixture(folder: Path, **splits: pa.Table) -> Path:
    shards = []
    for split, table in splits.items():
        path = folder / split / "shard-00000.parquet"
        write_shard(path, table, SAMPLE_SCHEMA)
        shards.append(record_shard(folder, path))
    write_manifest(folder, Manifest(kind="balanced", name=folder.name, shards=shards))
    return folder


@pytest.fixture(scope="session")
def balanced_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mixture(tmp_path_factory.mktemp("balanced"))


def bins(**counts: int) -> list[int]:
    return [counts.get(f"b{place}", 0) for place in range(20)]


HISTOGRAMS = {
    "press": {"auth_weight": bins(b15=40, b16=20), "prov_entropy": bins(b3=60)},
    "patents": {"auth_weight": bins(b1=1234), "prov_entropy": bins(b14=1000, b15=234)},
    "not_drawn": {"auth_weight": bins(), "prov_entropy": bins()},
}


def write_mixture(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metadata.json").write_text(json.dumps({"histograms": HISTOGRAMS}))
    return seal_mixture(
        folder,
        train=sample_table("train", [0.1] * 3 + [0.5] * 3 + [0.9] * 4),
        valid=sample_table("valid", [0.1, 0.5, 0.9] * 7),
    )


def write_finished_run(root: Path) -> Path:
    """Write a store that holds a mixture and the finished run `first`, and its base model beside it."""
    base, store = write_base(root / "base"), root / "store"
    mixture = write_mixture(store / "balanced" / "guide")
    run = write_run(store / "runs" / "first", base)
    record = {"model": "tiny llama", "balanced": str(mixture)}
    (run / "run.json").write_text(json.dumps(record))
    result = {
        "steps": 3,
        "recipe_digest": "r",
        "data_digest": "d",
        "adapter": "checkpoint-3",
        "model_path": str(base),
    }
    (run / "result.json").write_text(json.dumps(result))
    return store


def make_spec(run: Path, model: Path, balanced: Path, reports: Path, **parameters: Any) -> dict[str, Any]:
    return {
        "run_folder": str(run),
        "model_path": str(model),
        "adapter": "checkpoint-3",
        "balanced_folder": str(balanced),
        "reports_folder": str(reports),
        "parameters": PARAMETERS | parameters,
        "inputs": {"run": "abc"},
    }


@pytest.fixture(scope="session")
def spec(run_folder: Path, base_model: Path, balanced_folder: Path, tmp_path_factory: Any) -> dict[str, Any]:
    reports = tmp_path_factory.mktemp("reports") / "reports"
    return make_spec(run_folder, base_model, balanced_folder, reports)


@pytest.fixture(scope="session")
def events(spec: dict[str, Any], tmp_path_factory: Any) -> list[dict[str, Any]]:
    """The events of a whole evaluation in a child process, as the parent starts it."""
    path = tmp_path_factory.mktemp("spec") / "spec.json"
    path.write_text(json.dumps(spec))
    command = [sys.executable, "-m", "tasks.evals", str(path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr + done.stdout
    return [parse_event(line) for line in done.stdout.splitlines()]
