"""Tiny random models, adapters and mixtures, made on the spot."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from storage.events import Emit, read_specification
from storage.parquet import write_shard
from storage.schemas import SAMPLE_SCHEMA
from tasks.exports.export import export_model
from tasks.exports.export_manifest import ExportResult
from tasks.exports.gguf_tokenizer import SMOLLM
from tasks.exports.parameters import ExportRequest
from tests.clients.llama_cpp import LlamaCpp, running

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 96,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
    "eos_token_id": 0,
}
QWEN2 = {name: value for name, value in CONFIG.items() if name != "head_dim"} | {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "tie_word_embeddings": False,
    "rope_theta": 1000000.0,
}
MISTRAL = CONFIG | {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "tie_word_embeddings": False}
STRETCHED = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
LLAMA3 = CONFIG | {"rope_scaling": {"rope_type": "llama3", **STRETCHED}}
LINEAR = CONFIG | {"rope_scaling": {"type": "linear", "factor": 4.0}}
KEYS = ["self_attn.q_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.down_proj"]
CHAT_TEMPLATE = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
TEXT = ["the record of the measurement in the notebook of the engineer"] * 4


def forget(event: str, **fields: object) -> None:
    """Take an event that has something to say."""
    assert event == "progress" and fields["message"]


def export(specification: dict[str, Any], emit: Emit = forget, **parameters: Any) -> ExportResult:
    return export_model(read_specification(json.dumps(specification | {"parameters": parameters}), ExportRequest), emit)


def an_export(**fields: Any) -> ExportResult:
    """What an export of an MLX folder alone reports."""
    nothing = dict.fromkeys(("max_logit_difference", "top1_agreement", "gguf", "lm_studio_folder", "ollama", "hub"))
    made = {"folder": "/x", "files": [], "precision": "as it was", "reused": False, "seconds": 1.0}
    return ExportResult.model_validate(nothing | made | fields)


def write_tokenizer(folder: Path, rule: str | None = None) -> None:
    """Write a byte-level tokenizer of 300 entries that splits text by a rule, GPT-2's if none is given."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=rule in (None, SMOLLM))
    steps: list[Any] = [] if rule is None else [pre_tokenizers.Split(Regex(rule), "isolated")]
    if rule == SMOLLM:
        steps = [pre_tokenizers.Digits(individual_digits=True)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*steps, plain]) if steps else plain
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>", "pad_token": "<|end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)


def random_weights(config: dict[str, Any]) -> dict[str, Any]:
    import importlib

    import mlx.core as mx
    from mlx.utils import tree_flatten

    kind = str(config["model_type"]).replace("mistral", "llama")
    module = importlib.import_module(f"mlx_lm.models.{kind}")
    mx.random.seed(7)
    weights = dict(tree_flatten(module.Model(module.ModelArgs.from_dict(config)).parameters()))
    # Random weights leave near-ties everywhere; wider ones make the ranking of tokens worth comparing.
    return {name: value if value.ndim == 1 else 3 * value for name, value in weights.items()}


def write_base(folder: Path, config: dict[str, Any], rule: str | None = None, shards: int = 1) -> Path:
    """Write a tiny random model with a tokenizer."""
    import mlx.core as mx

    folder.mkdir(parents=True, exist_ok=True)
    weights = random_weights(config)
    names = sorted(weights)
    for number in range(shards):
        file = "model.safetensors" if shards == 1 else f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: weights[name] for name in names[number::shards]}
        mx.save_safetensors(str(folder / file), part, metadata={"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(folder, rule)
    return folder


def write_quantised(folder: Path, base: Path) -> Path:
    from mlx_lm.utils import load, quantize_model, save

    model, tokenizer, config = load(str(base), return_config=True)
    model, config = quantize_model(model, config, 32, 4)
    save(folder, str(base), model, tokenizer, config)
    return folder


@pytest.fixture(scope="session")
def float_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float32 llama of two layers in two shards, with the other files of a downloaded model folder."""
    folder = write_base(tmp_path_factory.mktemp("base"), CONFIG, shards=2)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 0}))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\ntags: [x]\n---\n# Base\n")
    (folder / "LICENSE").write_text("the licence")
    (folder / "modeling_evil.py").write_text("raise SystemExit")
    return folder


@pytest.fixture(scope="session")
def four_bit_base(float_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model quantised to 4 bits as a downloaded MLX model is."""
    return write_quantised(tmp_path_factory.mktemp("base-4bit"), float_base)


@pytest.fixture(scope="session")
def half_base(float_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model in bfloat16, as most base models are."""
    import mlx.core as mx
    from mlx_lm.utils import load, save

    folder = tmp_path_factory.mktemp("base-bf16")
    model, tokenizer, config = load(str(float_base), return_config=True)
    model.set_dtype(mx.bfloat16)
    save(folder, str(float_base), model, tokenizer, config)
    return folder


@pytest.fixture(scope="session")
def adapter(float_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of rank 4 whose effect on the logits is large."""
    return write_adapter(float_base, tmp_path_factory.mktemp("runs") / "run-1" / "checkpoint-20")


def write_adapter(base: Path, folder: Path, seed: int = 11, **changes: Any) -> Path:
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.tuner.utils import linear_to_lora_layers
    from mlx_lm.utils import load_model

    folder.mkdir(parents=True)
    parameters = {"rank": 4, "scale": 2.0, "dropout": 0.0, "keys": KEYS}
    model, _ = load_model(base)
    model.freeze()
    linear_to_lora_layers(model, 2, parameters)
    mx.random.seed(seed)
    weights = {name: 0.2 * mx.random.normal(value.shape) for name, value in tree_flatten(model.trainable_parameters())}
    mx.save_safetensors(str(folder / "adapters.safetensors"), weights)
    config = {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": parameters} | changes
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def specification(float_base: Path, adapter: Path, tmp_path: Path) -> dict[str, Any]:
    """The specification of an export of a finished run."""
    run = tmp_path / "run"
    shutil.copytree(adapter, run / "checkpoint-20")
    record = {"model": "someone/tiny-llama", "recipe": {"alpha": 2.7, "lora_rank": 4}, "Z": 3.25, "tokens": 1234}
    (run / "run.json").write_text(json.dumps(record))
    (run / "result.json").write_text(json.dumps({"steps": 20, "adapter": "checkpoint-20"}))
    write_mixture(tmp_path / "balanced")
    return specify(float_base, run / "checkpoint-20", tmp_path)


MIXTURE = [
    ("us_patents", 0.05, "logic", '{"licence": "public domain"}'),
    ("us_patents", 0.10, "logic", '{"licence": "public | domain"}'),
    ("wikipedia", 0.90, "grammar", '{"licence": "CC BY-SA 4.0"}'),
    ("wikipedia", 0.50, "rhetoric", "{}"),
]


def write_mixture(balanced: Path, rows: list[tuple[str, float, str, str]] = MIXTURE) -> None:
    """Write a training split of samples: source, authority, trivium category and metadata."""
    samples = []
    for number, (source, authority, trivium, metadata) in enumerate(rows):
        name = f"{source}:{number}"
        ids = {"id": name, "doc_id": name, "group_id": name, "source": source, "source_type": "unknown"}
        scores = {"auth_weight": authority, "prov_entropy": 1.0, "trivium_category": trivium}
        samples.append({**ids, **scores, "text": "User: a\n\nAssistant: b", "metadata": metadata})
    table = pa.Table.from_pylist(samples, schema=SAMPLE_SCHEMA)
    write_shard(balanced / "train" / "shard-00000.parquet", table, SAMPLE_SCHEMA)


def specify(base: Path, adapter: Path, folder: Path, **parameters: Any) -> dict[str, Any]:
    """Specify an export named tiny of a run that recorded nothing but its adapter."""
    return {
        "run_folder": str(folder / "run"),
        "model_path": str(base),
        "adapter": str(adapter),
        "export_folder": str(folder / "exports" / "tiny"),
        "reports_folder": str(folder / "run" / "reports"),
        "balanced_folder": str(folder / "balanced"),
        "parameters": parameters,
    }


@pytest.fixture(scope="session")
def llama() -> Iterator[LlamaCpp]:
    """A real llama.cpp; without one, tests that want it are skipped."""
    with running() as client:
        yield client


def load_weights(folder: Path) -> dict[str, Any]:
    import mlx.core as mx

    weights: dict[str, Any] = {}
    for path in sorted(folder.glob("model*.safetensors")):
        shard: Any = mx.load(str(path))
        weights |= shard
    return weights
