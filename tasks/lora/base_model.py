"""The base model: where it is on this machine, as it is or in 4 bits; its name, its digest, and how it is loaded."""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage.atomic import atomic_folder, full_disk_explained, remove_temporaries_of, write_json
from storage.errors import PrerequisiteError
from storage.lock import only_writer
from storage.manifest import digest_of
from storage.model_folder import CONFIG, WEIGHTS, check_model_folder, loading, read_config
from storage.model_weights import SHARD_BYTES, Arrays, write_shards
from storage.untrusted import file_sha256
from tasks.lora.architecture import Architecture, architecture_of
from tasks.lora.fetch import PAPERS, fetch_config, fetch_model, hub_home
from tasks.lora.presets import preset_of, repository_of

if TYPE_CHECKING:
    import mlx.nn as nn

    from storage.chat_layout import Tokenizer

Log = Callable[[str], None]
DIGEST_SAMPLES = 64
DIGEST_SAMPLE_BYTES = 64 * 1024
BITS = 4
GROUP = 64
COPIED = (
    *("tokenizer*", "special_tokens_map.json", "vocab.json", "merges.txt", "generation_config.json", "*.jinja"),
    *PAPERS,
)


def local_folder(model: str) -> Path | None:
    """Return the folder that a model names; none if it names a preset or a model of the Hub."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder.resolve()
    if model.startswith((".", "/", "~")):
        raise PrerequisiteError(
            f"base model folder {model} does not exist; name an existing folder or a Hugging Face id"
        )
    return None


def public_name(model: str) -> str:
    """Name a base model for others: its repository on the Hub, or the last part of a folder's path."""
    folder = local_folder(model)
    return repository_of(model) if folder is None else folder.name


def architecture_of_base(model: str, *, quantise: bool | None = None) -> Architecture | None:
    """Return the sizes of the model that would be trained, none if it is not a transformer; loads no weights."""
    folder, preset = local_folder(model), preset_of(model)
    if folder is not None:
        check_model_folder(folder)
        found = architecture_of(read_config(folder), folder)
    else:
        found = architecture_of(preset.config if preset else read_config(fetch_config(model)))
    wanted = folder is None if quantise is None else quantise
    return found.in_four_bits() if found and wanted else found


def resolve_base(model: str, *, quantise: bool | None = None, log: Log = print) -> Path:
    """Return a local folder with the base model, downloading and quantising it if need be.

    A 4-bit copy is made once and kept; `quantise` none asks for it of a model of the Hub, and not of a folder.
    PrerequisiteError if the model is missing, cannot be fetched, or is damaged.
    """
    local = local_folder(model)
    folder = fetch_model(repository_of(model), log) if local is None else local
    check_model_folder(folder)
    wanted = local is None if quantise is None else quantise
    if not wanted or not {"quantization", "quantization_config"}.isdisjoint(read_config(folder)):
        return folder
    files = sorted(folder.glob(WEIGHTS))
    sizes = {file.name: file.stat().st_size for file in files}
    if local is None:  # a snapshot of the Hub carries its commit in its path
        return _quantised_copy(folder, model, sizes, log)
    # In a folder of one's own, weights are replaced in place. They are read whole: samples would miss a change of a few
    # rows, and size and date survive more than that.
    log(f"Reading {sum(sizes.values()) / 1e9:.1f} GB of weights to find the 4-bit copy made from them")
    return _quantised_copy(folder, model, {file.name: file_sha256(file) for file in files}, log)


def _quantised_copy(folder: Path, model: str, weights: Mapping[str, object], log: Log) -> Path:
    """Return the 4-bit copy, kept beside the Hugging Face cache by name and content; make it if it does not exist."""
    key = digest_of([str(folder), (folder / CONFIG).read_text("utf-8"), dict(weights)])
    copy = hub_home() / "distrust-quantised" / f"{Path(model).name or 'base'}-4bit-{key[:12]}"
    if not (copy / CONFIG).is_file():
        with only_writer(copy, math.inf, log):
            if not (copy / CONFIG).is_file():  # it may have been made while this process waited
                remove_temporaries_of(copy)  # up to 40 GB, if an earlier process was killed over it
                log(f"Quantising the base model to 4 bits, once, into {copy}")
                with full_disk_explained(copy), atomic_folder(copy) as temporary:
                    write_quantised(folder, temporary)
    check_model_folder(copy)
    return copy


def write_quantised(source: Path, target: Path) -> None:
    """Write a 4-bit copy of a model into an empty folder; equal to what ``mlx_lm.convert`` makes, tensor by tensor.

    Every tensor stays an unevaluated graph (read, cast, quantise) until its shard is written.
    """
    import mlx.core as mx
    from mlx.utils import tree_flatten, tree_map
    from mlx_lm.utils import get_total_parameters, load_model, quantize_model

    def save(file: Path, tensors: Arrays) -> None:
        for tensor in tensors.values():
            mx.eval(tensor)  # one by one: evaluated together, all their sources would be in memory at once
        mx.save_safetensors(str(file), tensors, metadata={"format": "mlx"})
        tensors.clear()
        mx.clear_cache()

    with loading(source):
        model, config = load_model(source, lazy=True)
    _cast(model, str(config.get("torch_dtype") or config.get("text_config", {}).get("dtype")))
    model, config = quantize_model(model, config, GROUP, BITS)
    parameters = int(get_total_parameters(model))
    weights: Arrays = dict(tree_flatten(model.parameters()))
    model.update(tree_map(lambda _: mx.array([]), model.parameters()))  # the dictionary alone holds them now
    write_shards(target, weights, parameters, save, SHARD_BYTES)
    for copied in (path for pattern in COPIED for path in source.glob(pattern) if path.is_file()):
        shutil.copyfile(copied, target / copied.name)
    write_json(target / CONFIG, config)


def _cast(model: Any, named: str) -> None:
    """Turn the weights into the type that the configuration names, as the library's converter does."""
    import mlx.core as mx
    from mlx.utils import tree_map_with_path

    if named not in ("float16", "bfloat16", "float32"):
        return
    dtype = getattr(mx, named)
    may_cast = getattr(model, "cast_predicate", lambda path: True)

    def cast(path: str, array: Any) -> Any:
        return array.astype(dtype) if may_cast(path) and mx.issubdtype(array.dtype, mx.floating) else array

    model.update(tree_map_with_path(cast, model.parameters()))


def base_digest(folder: Path) -> str:
    """Digest a base model's configuration and weights."""
    files = {file.name: _sampled_digest(file) for file in sorted(folder.glob(WEIGHTS))}
    return digest_of([(folder / CONFIG).read_text("utf-8"), files])


def _sampled_digest(file: Path) -> str:
    """Digest a weight file by its size and evenly spread samples.

    Reading 40 GB whole would hold up every start; other weights differ nearly everywhere.
    """
    size = file.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with file.open("rb") as data:
        for number in range(DIGEST_SAMPLES):
            data.seek(number * max(0, size - DIGEST_SAMPLE_BYTES) // (DIGEST_SAMPLES - 1))
            digest.update(data.read(DIGEST_SAMPLE_BYTES))
    return digest.hexdigest()


@dataclass(frozen=True)
class LoadedBase:
    """A base model in memory, with its tokenizer."""

    path: Path
    digest: str
    model: nn.Module
    tokenizer: Tokenizer


def load_base(folder: Path) -> LoadedBase:
    """Load a base model from a local folder; code in the folder is never run."""
    from mlx_lm.utils import load_model
    from transformers import AutoTokenizer

    with loading(folder):
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        model, _ = load_model(folder)
    return LoadedBase(folder, base_digest(folder), model, tokenizer)
