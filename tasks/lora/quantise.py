"""The 4-bit copy of a base model, written with one shard and one layer in memory, however large the model is."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from storage.atomic import write_json
from storage.model_folder import CONFIG, INDEX, loading
from tasks.lora.fetch import PAPERS

BITS = 4
GROUP = 64
SHARD_BYTES = 512 << 20
COPIED = (
    *("tokenizer*", "special_tokens_map.json", "vocab.json", "merges.txt", "generation_config.json", "*.jinja"),
    *PAPERS,
)


def write_quantised(source: Path, target: Path) -> None:
    """Write a 4-bit copy of a model; equal to what ``mlx_lm.convert`` makes, tensor by tensor.

    Every tensor stays an unevaluated graph (read, cast, quantise) until its shard is written.

    Args:
        source: The model's folder, in the Hugging Face layout.
        target: An empty folder.
    """
    import mlx.core as mx
    from mlx.utils import tree_flatten, tree_map
    from mlx_lm.utils import get_total_parameters, load_model, quantize_model

    with loading(source):
        model, config = load_model(source, lazy=True)
    _cast(model, config)
    model, config = quantize_model(model, config, GROUP, BITS)
    parameters = int(get_total_parameters(model))
    weights: dict[str, Any] = dict(tree_flatten(model.parameters()))
    total = sum(int(array.nbytes) for array in weights.values())
    model.update(tree_map(lambda _: mx.array([]), model.parameters()))  # the dictionary alone holds them now
    places: dict[str, str] = {}
    names = list(_shards(weights))
    for number, shard in enumerate(names, start=1):
        file = f"model-{number:05d}-of-{len(names):05d}.safetensors" if len(names) > 1 else "model.safetensors"
        tensors = {}
        for name in shard:
            tensors[name] = weights.pop(name)
            mx.eval(tensors[name])  # one by one: evaluated together, all their sources would be in memory at once
        mx.save_safetensors(str(target / file), tensors, metadata={"format": "mlx"})
        places |= dict.fromkeys(shard, file)
        tensors.clear()
        mx.clear_cache()
    size = {"total_size": total, "total_parameters": parameters}
    write_json(target / INDEX, {"metadata": size, "weight_map": dict(sorted(places.items()))})
    for copied in (path for pattern in COPIED for path in source.glob(pattern) if path.is_file()):
        shutil.copyfile(copied, target / copied.name)
    write_json(target / CONFIG, config)


def _cast(model: Any, config: dict[str, Any]) -> None:
    """Turn the weights into the type that the configuration names, as the library's converter does."""
    import mlx.core as mx
    from mlx.utils import tree_map_with_path

    named = str(config.get("torch_dtype") or config.get("text_config", {}).get("dtype"))
    if named not in ("float16", "bfloat16", "float32"):
        return
    dtype = getattr(mx, named)
    may_cast = getattr(model, "cast_predicate", lambda path: True)

    def cast(path: str, array: Any) -> Any:
        return array.astype(dtype) if may_cast(path) and mx.issubdtype(array.dtype, mx.floating) else array

    model.update(tree_map_with_path(cast, model.parameters()))


def _shards(weights: dict[str, Any]) -> Iterator[list[str]]:
    """Cut the names into runs of at most `SHARD_BYTES`; a single larger tensor makes a shard of its own."""
    shard: list[str] = []
    size = 0
    for name, array in weights.items():
        if shard and size + array.nbytes > SHARD_BYTES:
            yield shard
            shard, size = [], 0
        shard.append(name)
        size += array.nbytes
    if shard:
        yield shard
