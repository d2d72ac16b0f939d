"""Fuse an adapter into its base with bounded memory.

Every weight stays a recipe (read, dequantise, add the low-rank product, quantise) until its shard is written,
so the peak is one shard and one module, however large the model is. The arithmetic is that of the adapter
layers' own ``fuse``, hence equal to ``mlx_lm.fuse``.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage.atomic import write_json
from storage.errors import ParameterError, StoreError
from storage.events import Emit
from storage.model_folder import read_adapter

SHARD_BYTES = 512 * 2**20
INDEX = "model.safetensors.index.json"
GROUP_SIZES = (128, 64, 32)


@dataclass
class LazyModel:
    """A model whose arrays have shapes and types but are not computed yet."""

    weights: dict[str, Any]
    """Arrays by name, in the order in which they are written."""
    config: dict[str, Any]
    parameter_count: int
    base_quantized: bool
    arguments: Any
    """The model's arguments as MLX reads them from the config, defaults filled in."""
    precision: str
    """What was rounded on the way, in words."""

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
    """Describe the fused model without computing it.

    Args:
        base: Folder of the base model, float or quantised.
        adapter: Folder with ``adapters.safetensors`` and ``adapter_config.json``.
        dequantize: Turn the weights of a quantised base into floats.
        bits: Quantise the fused model to this many bits; a quantised base is dequantised first.
        group_size: Weights that share one scale when `bits` is given.

    Raises:
        StoreError: The base or the adapter cannot be opened, or they do not fit each other.
        ParameterError: The group size does not divide the width of a layer.
    """
    from mlx.utils import tree_flatten, tree_unflatten
    from mlx_lm.utils import dequantize_model, get_total_parameters, quantize_model

    model, config = open_with_adapter(base, adapter, lazy=True)
    arguments = model.args
    quantization = config.get("quantization")
    base_quantized = quantization is not None
    as_floats = base_quantized and (dequantize or bits is not None)
    fused = [
        (name, module.fuse(dequantize=as_floats)) for name, module in model.named_modules() if hasattr(module, "fuse")
    ]
    if fused:
        model.update_modules(tree_unflatten(fused))
    if as_floats:
        model = dequantize_model(model)
        config.pop("quantization", None)
        config.pop("quantization_config", None)
    if bits is not None:
        check_group_size(model, group_size)
        model, config = quantize_model(model, config, group_size, bits)
    weights = dict(tree_flatten(model.parameters()))
    norm = next((str(value.dtype).removeprefix("mlx.core.") for value in weights.values() if value.ndim == 1), "float")
    precision = describe_precision(quantization, norm, config.get("quantization"), len(fused), as_floats)
    return LazyModel(weights, config, get_total_parameters(model), base_quantized, arguments, precision)


def describe_precision(
    before: dict[str, Any] | None, floats: str, after: dict[str, Any] | None, changed: int, as_floats: bool
) -> str:
    """Say what is dequantised and quantised again when `changed` layers take up the adapter."""
    if before is not None and not as_floats:
        return (
            f"The base is quantised to {bits_of(before)}. The {changed} layers that the adapter changes are "
            f"dequantised to {floats}, added to and quantised again alike; all others are copied bit for bit."
        )
    source = f"The base, quantised to {bits_of(before)}, is dequantised to {floats}. " if before else ""
    end = f"Then all layers are quantised to {bits_of(after)}." if after else f"The sum stays {floats}."
    return f"{source}The adapter is added to {changed} layers in {floats}. {end}"


def bits_of(quantization: dict[str, Any] | None) -> str:
    """Name a quantisation in words."""
    chosen = quantization or {}
    return f"{chosen.get('bits')} bits in groups of {chosen.get('group_size')}"


def open_with_adapter(base: Path, adapter: Path, *, lazy: bool) -> tuple[Any, dict[str, Any]]:
    """Open a base model with its adapter applied.

    Raises:
        StoreError: The base or the adapter cannot be opened, or they do not fit each other.
    """
    from mlx_lm.utils import load_adapters, load_model

    try:
        model, config = load_model(base, lazy=lazy)
    except Exception as error:  # whatever a loader makes of what somebody else wrote
        raise StoreError(f"the base model in {base} cannot be opened ({error}); download it again") from error
    try:
        model = load_adapters(model, str(adapter))
    except Exception as error:
        raise StoreError(
            f"the adapter in {adapter} does not fit the base model in {base} ({error}); "
            "name the base model that the run was trained on"
        ) from error
    model.eval()
    return model, config


def check_group_size(model: Any, group_size: int) -> None:
    """Refuse a group size that would leave some layers unquantised without a word.

    Raises:
        ParameterError: It does not divide the width of a layer.
    """
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


def plan_shards(sizes: dict[str, int], shard_bytes: int) -> list[list[str]]:
    """Group tensor names, in order, into shards of at most `shard_bytes`; a larger tensor gets its own."""
    shards: list[list[str]] = []
    filled = 0
    for name, size in sizes.items():
        if not shards or filled + size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def write_weights(folder: Path, model: LazyModel, emit: Emit, shard_bytes: int = SHARD_BYTES) -> None:
    """Compute and write the weights shard by shard, and an index of where each tensor lies.

    `model.weights` is empty afterwards: an array that stayed there would keep its memory.
    """
    import mlx.core as mx

    gc.collect()  # module trees are cyclic; until they are gone they hold every base weight that was read
    total_bytes = model.bytes
    shards = plan_shards({name: int(array.nbytes) for name, array in model.weights.items()}, shard_bytes)
    places: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = "model.safetensors" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        shard = {}
        for name in names:
            shard[name] = model.weights.pop(name)
            mx.eval(shard[name])
        mx.save_safetensors(str(folder / file), shard, metadata={"format": "mlx"})
        places |= dict.fromkeys(names, file)
        shard.clear()
        mx.clear_cache()
        emit("progress", stage="fuse", done=number, total=len(shards), message=f"fused shard {number} of {len(shards)}")
    index = {
        "metadata": {"total_size": total_bytes, "total_parameters": model.parameter_count},
        "weight_map": dict(sorted(places.items())),
    }
    write_json(folder / INDEX, index)


def read_adapter_config(adapter: Path) -> dict[str, Any]:
    """Read how an adapter is built.

    Raises:
        StoreError: The folder holds no adapter.
    """
    for name in ("adapters.safetensors", "adapter_config.json"):
        if not (adapter / name).is_file():
            raise StoreError(f"{adapter} holds no {name}; name a checkpoint folder of a training run")
    return read_adapter(adapter)
