"""Fuse an adapter into its base with bounded memory, and write the folder that ``mlx_lm.load`` and LM Studio open.

Every weight stays a recipe (read, dequantise, add the low-rank product, quantise) until its shard is written, so the
peak is one shard and one layer, or some rows of a layer that stays quantised, however large the model is. The
arithmetic is that of the adapter layers' own ``fuse``, hence equal to ``mlx_lm.fuse``.
"""

from __future__ import annotations

import gc
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage.errors import ParameterError, PrerequisiteError, StoreError
from storage.events import Emit
from storage.model_folder import ADAPTER_CONFIG, ADAPTERS, CONFIG, WEIGHTS, loading
from storage.model_weights import SHARD_BYTES, Arrays, write_shards
from storage.untrusted import file_sha256

BLOCK_VALUES = 2**22
"""Weights that are dequantised, added to and quantised again at once."""
PARTS = ("weight", "scales", "biases")
"""Of a quantised layer; some formats have no biases."""
GROUP_SIZES = (128, 64, 32)
COPIED = (
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "*.tiktoken", "chat_template.*"),
    *("generation_config.json", "preprocessor_config.json", "processor_config.json"),
    *("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*"),
)
"""Files of the base that the export keeps as they are. Python files are never among them."""


@dataclass(frozen=True)
class Packed:
    """A weight of a quantised base that nothing was added to: its floats are computed some rows at a time."""

    parts: list[Any]
    format: dict[str, Any]

    def rows(self, rows: slice) -> Any:
        """Return some rows as floats."""
        import mlx.core as mx

        return mx.dequantize(*(part[rows] for part in self.parts), **self.format)


@dataclass
class LazyModel:
    """A model whose arrays have shapes and types but are not computed yet."""

    weights: Arrays
    config: dict[str, Any]
    parameter_count: int
    base_quantized: bool
    arguments: Any
    """The model's arguments as MLX reads them from the config, defaults filled in."""
    precision: str
    """What was rounded on the way, in words."""
    packed: dict[str, Packed]
    """Embedding and head, the largest weights, of a quantised base whose weights are given as floats."""

    @property
    def bytes(self) -> int:
        """Size of all weights once written."""
        return sum(int(array.nbytes) for array in self.weights.values())

    @property
    def quantized(self) -> bool:
        """Tell whether the fused model holds quantised weights."""
        return "quantization" in self.config


def fuse_lazily(
    base: Path, adapter: Path, *, dequantize: bool = False, bits: int | None = None, group_size: int = 64
) -> LazyModel:
    """Describe the fused model without computing it; UserError if base, adapter and group size do not fit together.

    A quantised base is turned into floats by `dequantize`, and before the whole is quantised to `bits`.
    """
    from mlx.utils import tree_flatten, tree_unflatten
    from mlx_lm.utils import dequantize_model, get_total_parameters, quantize_model

    model, config = open_with_adapter(base, adapter, lazy=True)
    before = config.get("quantization")
    as_floats = before is not None and (dequantize or bits is not None)
    fused = [(name, _fuse(module, as_floats)) for name, module in model.named_modules() if hasattr(module, "fuse")]
    if fused:
        model.update_modules(tree_unflatten(fused))
    packed = {}
    if as_floats:
        packed = {f"{name}.weight": _pack(module) for name, module in model.named_modules() if _is_large(name, module)}
        model = dequantize_model(model)
        config.pop("quantization", None)
        config.pop("quantization_config", None)
    if bits is not None:
        _check_group_size(model, group_size)
        model, config = quantize_model(model, config, group_size, bits)
    weights = dict(tree_flatten(model.parameters()))
    floats = next((str(w.dtype).removeprefix("mlx.core.") for w in weights.values() if w.ndim == 1), "float")
    old, new = map(_describe_format, (before, config.get("quantization")))
    precision = _describe_precision(old, floats, new, len(fused), as_floats)
    return LazyModel(weights, config, get_total_parameters(model), before is not None, model.args, precision, packed)


def _is_large(name: str, module: Any) -> bool:
    """Tell whether a module is a quantised embedding or head."""
    from mlx.nn import QuantizedEmbedding, QuantizedLinear

    return isinstance(module, QuantizedEmbedding) or (isinstance(module, QuantizedLinear) and name == "lm_head")


def _pack(module: Any) -> Packed:
    parts = [module[name] for name in PARTS if module.get(name) is not None]
    return Packed(parts, {"group_size": module.group_size, "bits": module.bits, "mode": module.mode})


def _fuse(module: Any, as_floats: bool) -> Any:
    """Fuse a layer as its own ``fuse`` does, a quantised one by blocks of rows; floats in whole only if asked for."""
    import mlx.core as mx
    from mlx.nn import Linear, QuantizedLinear
    from mlx_lm.tuner.lora import LoRALinear

    if type(module) is not LoRALinear or not isinstance(module.linear, QuantizedLinear):
        return module.fuse(dequantize=as_floats)
    linear = module.linear
    whole = _pack(linear)
    names = PARTS[: len(whole.parts)]
    step = max(1, BLOCK_VALUES // module.lora_a.shape[0])
    left, right = module.scale * module.lora_b.T, module.lora_a.T
    blocks: list[Any] = []
    for start in range(0, linear.weight.shape[0], step):
        rows = slice(start, start + step)
        packed = [part[rows] for part in whole.parts]
        if blocks:
            packed = mx.depends(packed, blocks[-1])  # one block after the other
        weight = mx.dequantize(*packed, **whole.format)
        weight = weight + (left[rows] @ right).astype(weight.dtype)
        blocks.append([weight] if as_floats else mx.quantize(weight, **whole.format))
    if as_floats:
        plain = Linear(1, 1, bias=False)
        plain.weight = mx.concatenate([block for (block,) in blocks])
        if "bias" in linear:
            plain.bias = linear.bias
        return plain
    for name, parts in zip(names, zip(*blocks, strict=True), strict=True):
        linear[name] = mx.concatenate(list(parts))
    return linear


def _describe_format(quantization: Any) -> str:
    return f"{quantization['bits']} bits in groups of {quantization['group_size']}" if quantization else ""


def _describe_precision(before: str, floats: str, after: str, changed: int, as_floats: bool) -> str:
    """Say what is dequantised and quantised again when `changed` layers take up the adapter."""
    if before and not as_floats:
        return (
            f"The base is quantised to {before}. The {changed} layers that the adapter changes are "
            f"dequantised to {floats}, added to and quantised again alike; all others are copied bit for bit."
        )
    source = f"The base, quantised to {before}, is dequantised to {floats}. " if before else ""
    end = f"Then all layers are quantised to {after}." if after else f"The sum stays {floats}."
    return f"{source}The adapter is added to {changed} layers in {floats}. {end}"


def open_with_adapter(base: Path, adapter: Path, *, lazy: bool) -> tuple[Any, dict[str, Any]]:
    """Open a base model with its adapter applied; return it and its configuration. Raises as `fuse_lazily` does."""
    from mlx_lm.utils import load_adapters, load_model

    with loading(base):
        model, config = load_model(base, lazy=lazy)
    try:
        model = load_adapters(model, str(adapter))
    except Exception as error:
        raise StoreError(
            f"the adapter in {adapter} does not fit the base model in {base} ({error}); "
            "name the base model that the run was trained on"
        ) from error
    model.eval()
    return model, config


def _check_group_size(model: Any, group_size: int) -> None:
    """Refuse a group size that would silently leave some layers unquantised."""
    chooses = getattr(model, "quant_predicate", None)
    widths = {
        name: int(module.weight.shape[-1])
        for name, module in model.named_modules()
        if hasattr(module, "to_quantized") and (chooses is None or chooses(name, module))
    }
    bad = {name: width for name, width in widths.items() if width % group_size}
    if not bad:
        return
    fitting = [size for size in GROUP_SIZES if all(width % size == 0 for width in widths.values())]
    advice = f"use group_size={fitting[0]}" if fitting else "no group size divides them all; use quantize='none'"
    first = next(iter(bad))
    raise ParameterError(
        f"group_size={group_size} does not divide the width of {len(bad)} of {len(widths)} layers "
        f"({first} is {bad[first]} wide); {advice}"
    )


def digest_inputs(base: Path, adapter: Path, emit: Emit) -> dict[str, str]:
    """Hash every file on which the exported files depend."""
    weights = sorted(base.glob(WEIGHTS))
    digests = {}
    for number, path in enumerate(weights, start=1):
        digests[f"base/{path.name}"] = file_sha256(path)
        emit("progress", stage="hash", done=number, total=len(weights), message=f"hashed {path.name}")
    digests |= {f"base/{path.name}": file_sha256(path) for path in [base / CONFIG, *_files_to_copy(base)]}
    return digests | {f"adapter/{name}": file_sha256(adapter / name) for name in (ADAPTERS, ADAPTER_CONFIG)}


def _files_to_copy(base: Path) -> list[Path]:
    found = {path for pattern in COPIED for path in base.glob(pattern) if path.is_file()}
    return sorted(path for path in found if path.suffix != ".py")


def check_disk(parent: Path, needed_bytes: int) -> None:
    """Raise PrerequisiteError if the disk has too little room."""
    free = shutil.disk_usage(parent).free
    if free < needed_bytes:
        raise PrerequisiteError(
            f"the export needs {needed_bytes / 1e9:.1f} GB but {parent} has {free / 1e9:.1f} GB free; "
            "free some space, or quantise to fewer bits"
        )


def write_mlx_folder(folder: Path, base: Path, model: LazyModel, emit: Emit) -> None:
    """Write weights, index, config and the copied files of the base into an empty folder."""
    from mlx_lm.utils import save_config

    check_disk(folder.parent, model.bytes)
    write_weights(folder, model, emit)
    save_config(model.config, folder / CONFIG)
    for path in _files_to_copy(base):
        shutil.copyfile(path, folder / path.name)


def write_weights(folder: Path, model: LazyModel, emit: Emit, shard_bytes: int = SHARD_BYTES) -> None:
    """Compute and write the weights shard by shard; `model.weights` is empty afterwards."""
    import mlx.core as mx

    total = model.bytes

    def save(file: Path, tensors: Arrays) -> None:
        for tensor in tensors.values():
            mx.eval(tensor)
        mx.save_safetensors(str(file), tensors, metadata={"format": "mlx"})
        tensors.clear()
        mx.clear_cache()
        emit("progress", stage="fuse", done=total - model.bytes, total=total, message=f"fused {file.name}")

    gc.collect()  # module trees are cyclic; until they are gone they hold every base weight that was read
    write_shards(folder, model.weights, model.parameter_count, save, shard_bytes)
