"""The folder of a base model in the Hugging Face layout, judged before anything of it is loaded.

It may come from anywhere. This module refuses what would end a loader with an obscure error, keep it waiting, or fill
the memory; everything that a loader can use passes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage.errors import DistrustError, PrerequisiteError, StoreError
from storage.untrusted import MOST_JSON_BYTES, open_file, parse_json, read_object, require_file

CONFIG = "config.json"
WEIGHTS = "model*.safetensors"
INDEX = "model.safetensors.index.json"
LONGEST_HEADER_BYTES = 64 << 20
MOST_VOCABULARY_BYTES = 128 << 20
"""Four times the longest known vocabulary of a model."""
LARGEST_SIZE = 2**31 - 1
SURE_LAYERS = 1000
"""More than any model has, and few enough to be built and then found to be wrong."""
LARGEST_ADAPTER = 65_536
"""Far beyond the ranks and the layers of any adapter."""
ADAPTERS = "adapters.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
READ_BY_LOADERS = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken")
SIZES = (
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
)
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "tok_embeddings.weight", "embed_in.weight")


@dataclass(frozen=True)
class Tensor:
    """One entry of a safetensors header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def _tensor(entry: Mapping[str, Any]) -> Tensor:
    shape, offsets = entry["shape"], entry["data_offsets"]
    start, end = offsets
    if any(type(number) is not int or number < 0 for number in (*shape, start, end)) or start > end:
        raise ValueError(f"{str(entry)[:100]} is not a tensor")
    return Tensor(str(entry["dtype"]), tuple(shape), start, end)


def read_header(file: Path) -> dict[str, Tensor]:
    """Read the names, types, shapes and places of the tensors of a safetensors file.

    Raises:
        PrerequisiteError: The file is cut off, or is not a safetensors file.
    """
    try:
        size = file.stat().st_size
        with open_file(file) as content:
            start = content.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 2 <= length <= min(LONGEST_HEADER_BYTES, size - 8):
                raise PrerequisiteError(
                    f"{file} is not a complete safetensors file ({size} bytes); delete it and run again"
                )
            entries = parse_json(content.read(length))
        tensors = {name: _tensor(entry) for name, entry in entries.items() if name != "__metadata__"}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise PrerequisiteError(
            f"{file} is not a safetensors file ({str(error)[:200] or type(error).__name__}); delete it and run again, "
            "or name another model"
        ) from error
    expected = 8 + length + max((tensor.end for tensor in tensors.values()), default=0)
    if size != expected:
        raise PrerequisiteError(
            f"{file} has {size} bytes, but its header describes {expected}: it was cut off or altered; "
            "delete it and run again"
        )
    return tensors


def check_model_folder(folder: Path) -> dict[str, Tensor]:
    """Refuse a folder that no loader should be given; return the tensors of its weights by name.

    Raises:
        PrerequisiteError: Something is missing, cut off, not a file, or contradicts something else.
    """
    config = read_config(folder)
    files = sorted(folder.glob(WEIGHTS))
    if not files:
        raise PrerequisiteError(
            f"{folder} holds no {WEIGHTS}; only safetensors weights are read, convert it or download it first"
        )
    tensors = {name: tensor for file in files for name, tensor in read_header(file).items()}
    if (folder / INDEX).exists():
        listed = _read(folder / INDEX).get("weight_map", {})
        if not isinstance(listed, dict):
            raise PrerequisiteError(f"{folder / INDEX} lists no weights; fetch or copy the model again")
        if missing := sorted(listed.keys() - tensors.keys()):
            raise PrerequisiteError(
                f"{folder} lacks {len(missing)} of {len(listed)} tensors, the first is {missing[0]}: a weight file is "
                "missing; fetch the model again"
            )
    for file in sorted(path for pattern in READ_BY_LOADERS for path in folder.glob(pattern)):
        with _explained(file):
            require_file(file)
            if file.stat().st_size > MOST_VOCABULARY_BYTES:
                raise ValueError(f"it is longer than {MOST_VOCABULARY_BYTES / 2**20:.0f} MiB")
    _check_sizes(folder, config, len(tensors))
    _check_vocabulary(folder, config, tensors)
    return tensors


def read_config(folder: Path) -> dict[str, Any]:
    """Read a model's configuration; PrerequisiteError if it is missing, or is something else."""
    if not (folder / CONFIG).is_symlink() and not (folder / CONFIG).exists():
        raise PrerequisiteError(f"{folder} holds no {CONFIG}; name a model folder in the Hugging Face layout")
    return _read(folder / CONFIG)


def _read(file: Path, most_bytes: int = MOST_JSON_BYTES) -> dict[str, Any]:
    with _explained(file):
        return read_object(file, most_bytes, finite=True)


@contextmanager
def _explained(file: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise PrerequisiteError(f"{file} is damaged ({error}); fetch or copy the model again") from error


def text_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of the language model, which is a part of that of a model that also sees."""
    nested = config.get("text_config")
    return {**config, **(nested if isinstance(nested, dict) else {})}


def _check_sizes(folder: Path, config: Mapping[str, Any], tensors: int) -> None:
    """Refuse sizes that no model has; a loader would build so many layers before it looks at a weight."""
    text = text_config(config)
    for name in SIZES:
        value = text.get(name)
        for size in value if isinstance(value, list) else [value]:
            if size is not None and (type(size) is not int or not 1 <= size <= LARGEST_SIZE):
                raise PrerequisiteError(
                    f"{folder / CONFIG} says {name} {str(size)[:40]!r}, which must be a whole number above 0; fetch or "
                    "copy the model again"
                )
    layers = text.get("num_hidden_layers")
    if isinstance(layers, int) and layers > max(tensors, SURE_LAYERS):
        raise PrerequisiteError(
            f"{folder / CONFIG} says num_hidden_layers {layers}, but the weights hold {tensors} tensors in all; fetch "
            "or copy the model again"
        )


def _check_vocabulary(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Refuse a tokenizer with tokens that the model has no row for; MLX would read beyond the embedding."""
    rows = [tensor.shape[0] for name, tensor in tensors.items() if name.endswith(EMBEDDINGS) and tensor.shape]
    known = max(rows) if rows else text_config(config).get("vocab_size")
    largest = largest_token(folder)
    if known is not None and largest is not None and largest >= known:
        raise PrerequisiteError(
            f"the tokenizer in {folder} has a token with the id {largest}, but the model knows {known} (0 to "
            f"{known - 1}): tokenizer and weights are not of the same model; fetch or copy both again"
        )


def largest_token(folder: Path) -> int | None:
    """Return the largest number that a tokenizer gives to a token; none if its files do not say.

    Raises:
        PrerequisiteError: A file of the tokenizer is damaged.
    """
    numbers: list[Any] = []
    if (folder / "tokenizer.json").exists():
        content = _read(folder / "tokenizer.json", MOST_VOCABULARY_BYTES)
        model = content.get("model")
        vocabulary = model.get("vocab") if isinstance(model, dict) else None
        numbers += vocabulary.values() if isinstance(vocabulary, dict) else ()
        numbers += [len(vocabulary) - 1] if isinstance(vocabulary, list) else []
        added = content.get("added_tokens")
        numbers += [token.get("id") for token in added or () if isinstance(token, dict)]
    for name in ("vocab.json", "added_tokens.json"):
        if (folder / name).exists():
            numbers += _read(folder / name, MOST_VOCABULARY_BYTES).values()
    if (folder / "tokenizer_config.json").exists():
        decoder = _read(folder / "tokenizer_config.json").get("added_tokens_decoder")
        numbers += [int(key) for key in decoder if key.isdecimal()] if isinstance(decoder, dict) else []
    return max((number for number in numbers if type(number) is int), default=None)


def read_adapter(folder: Path) -> dict[str, object]:
    """Read how an adapter is built, and make sure that its weights are whole.

    Raises:
        StoreError: A file is damaged, or describes an impossible adapter.
    """
    try:
        read_header(folder / ADAPTERS)
        config = read_object(folder / ADAPTER_CONFIG, finite=True)
        parameters = config.get("lora_parameters")
        rank = parameters.get("rank") if isinstance(parameters, dict) else 1
        for name, size in (("num_layers", config.get("num_layers", 1)), ("rank", rank)):
            if type(size) is not int or not -1 <= size <= LARGEST_ADAPTER:
                raise ValueError(f"{ADAPTER_CONFIG} says {name} {str(size)[:40]!r}")
    except (OSError, ValueError, PrerequisiteError) as error:
        raise StoreError(f"the adapter in {folder} is damaged: {error}; take another checkpoint") from error
    return config


@contextmanager
def loading(folder: Path) -> Iterator[None]:
    """Turn whatever a loader of other people's files raises into a sentence; the parsers of tokenizers even panic.

    Raises:
        PrerequisiteError: The model or its adapter cannot be loaded.
    """
    try:
        yield
    except (DistrustError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        message = " ".join(str(error).split())[:300]
        raise PrerequisiteError(
            f"{folder} cannot be loaded ({type(error).__name__}: {message}); fetch or copy the model again, or name "
            "another one"
        ) from error
