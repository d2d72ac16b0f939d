"""The 4-bit copy of a base model, written with one shard and one layer in memory, however large the model is."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from storage.atomic import write_json
from storage.model_folder import CONFIG, loading
from storage.model_weights import SHARD_BYTES, Arrays, write_shards
from tasks.lora.fetch import PAPERS

BITS = 4
GROUP = 64
COPIED = (
    *("tokenizer*", "special_tokens_map.json", "vocab.json", "merges.txt", "generation_config.json", "*.jinja"),
    *PAPERS,
)


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
