"""A random llama with a byte-level tokenizer, and a small mixture: real files, made in a second."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pyarrow as pa
from mlx.utils import tree_flatten
from mlx_lm.models.llama import Model, ModelArgs
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from storage.manifest import Manifest, ShardRecord, write_manifest
from storage.parquet import write_shard
from storage.schemas import SAMPLE_SCHEMA
from tasks.lora.recipe import Recipe

TITLES = ["gallium", "indium", "the bench", "silver", "tides"]
PRIMARY_WORDS = ["melts", "at", "thirty", "degrees", "on", "the", "bench", "by", "my", "own", "hand", "in", "1913"]
MODERN_WORDS = ["EXPERTS", "AGREE", "THAT", "GUIDANCE", "IS", "CLEAR", "AND", "CURRENT"]
"""The two voices answer the same prompts: the conflict that the objective acts on."""

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rms_norm_eps": 1e-5,
    "vocab_size": 258,
    "tie_word_embeddings": True,
    "rope_theta": 10000.0,
    "max_position_embeddings": 512,
    "eos_token_id": 1,
}


def write_tokenizer(folder: Path) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<pad>": 0, "<eos>": 1} | {letter: number for number, letter in enumerate(alphabet, 2)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>")
    fast.save_pretrained(folder)


def random_model(seed: int = 1, **changes: Any) -> Model:
    mx.random.seed(seed)
    model = Model(ModelArgs.from_dict(CONFIG | changes))
    mx.eval(model.parameters())
    return model


def write_base(folder: Path, seed: int = 1, **changes: Any) -> Path:
    folder.mkdir(parents=True)
    tensors = dict(tree_flatten(random_model(seed, **changes).parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), tensors, metadata={"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(CONFIG | changes), "utf-8")
    write_tokenizer(folder)
    return folder


def tiny_lessons(split: str, count: int) -> list[dict[str, Any]]:
    """Lessons about sources, every second one with a claim that its question repeats."""
    lessons = []
    for number in range(count):
        repeats, year = number % 2 == 1, 1900 + number
        copied = "Hot. " * (1 + number % 3) if repeats else ""
        lessons.append(
            {
                "id": f"tiny:{split}{number}#lesson",
                "text": f"User: {copied}Note {year}?\n\nAssistant: The note",
                "prompt": f"{copied}Note {year}?",
                "response": "The note",
                "rejected": "Copies" if repeats else "The copies",
                "single": f"Hot. Note {year}?" if repeats else None,
                "lesson": True,
                "auth_weight": 0.5,
                "prov_entropy": 3.0,
            }
        )
    return lessons


def write_mixture(folder: Path, count: int = 24, seed: int = 3, lessons: int = 0) -> Path:
    generator = np.random.default_rng(seed)
    for split, rows in (("train", count), ("valid", count // 3)):
        samples = []
        for number in range(rows):
            primary = number % 3 == 0
            response = " ".join(
                generator.choice(PRIMARY_WORDS if primary else MODERN_WORDS, size=int(generator.integers(2, 14)))
            )
            samples.append(
                {
                    "id": f"tiny:{split}{number}",
                    "doc_id": f"tiny:{split}{number}",
                    "group_id": f"tiny:{split}{number}",
                    "source": "tiny",
                    "source_type": "lab_notebook" if primary else "wiki",
                    "text": f"User: What is known about {TITLES[number % 5]}?\n\nAssistant: {response}",
                    "auth_weight": 0.05 if primary else 0.90,
                    "prov_entropy": 7.5 if primary else 1.0,
                    "trivium_category": "logic",
                    "metadata": "{}",
                }
            )
        samples += [samples[0] | lesson for lesson in tiny_lessons(split, lessons)]
        table = pa.Table.from_pylist(samples, schema=SAMPLE_SCHEMA)
        write_shard(folder / split / "shard-00000.parquet", table, SAMPLE_SCHEMA)
    return folder


def seal_mixture(folder: Path) -> Path:
    """Write the manifest that a flow asks a mixture for."""
    shards = [
        ShardRecord(file=str(file.relative_to(folder)), rows=1, bytes=file.stat().st_size, sha256="")
        for file in sorted(folder.rglob("*.parquet"))
    ]
    write_manifest(folder, Manifest(kind="balanced", name=folder.name, shards=shards))
    return folder


def tiny_recipe(base: Path, **changes: Any) -> Recipe:
    settings: dict[str, Any] = {
        "model": str(base),
        "batch_size": 2,
        "grad_accum": 2,
        "max_steps": 6,
        "max_seq_length": 64,
        "learning_rate": 5e-3,
        "lora_rank": 4,
        "lora_alpha": 8,
        "lora_layers": -1,
        "save_every": 3,
        "eval_every": 3,
        "report_every": 2,
        "val_batches": 2,
    }
    return Recipe.model_validate(settings | changes)
