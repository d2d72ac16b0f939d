"""A base model in memory, and what tells it from another one of the same name."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import mlx.nn as nn

from storage.manifest import digest_of
from storage.model_folder import loading
from tasks.lora.chunks import Encode

SAMPLES = 64
SAMPLE_BYTES = 64 * 1024


@dataclass(frozen=True)
class LoadedBase:
    """A base model in memory, with its tokenizer."""

    path: Path
    digest: str
    model: nn.Module
    encode: Encode
    end_token: int | None


def weights_digest(file: Path) -> str:
    """Digest a weight file by its size, its beginning and evenly spread samples.

    Reading 40 GB whole would hold up every start; other weights differ nearly everywhere.
    """
    size = file.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with file.open("rb") as data:
        for number in range(SAMPLES):
            data.seek(number * max(0, size - SAMPLE_BYTES) // (SAMPLES - 1))
            digest.update(data.read(SAMPLE_BYTES))
    return digest.hexdigest()


def base_digest(path: Path) -> str:
    """Digest a base model's folder: configuration and weights."""
    files = {file.name: weights_digest(file) for file in sorted(path.glob("model*.safetensors"))}
    return digest_of([(path / "config.json").read_text("utf-8"), files])


def load_base(path: Path) -> LoadedBase:
    """Load a base model from a local folder; code in the folder is never run."""
    from mlx_lm.utils import load_model
    from transformers import AutoTokenizer

    with loading(path):
        tokenizer = AutoTokenizer.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
        model, _ = load_model(path)
    return LoadedBase(
        path, base_digest(path), model, lambda texts: tokenizer(texts)["input_ids"], tokenizer.eos_token_id
    )
