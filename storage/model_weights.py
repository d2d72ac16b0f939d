"""The weight files of a model folder, written with one of them in memory at a time, however large the model is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from storage.atomic import write_json
from storage.model_folder import INDEX

SHARD_BYTES = 512 << 20

Arrays = dict[str, Any]
"""MLX arrays by name, in the order in which they are written."""
Save = Callable[[Path, Arrays], None]
"""Computes arrays and writes them into a file; nothing else holds them, so that they can be forgotten afterwards."""


def write_shards(folder: Path, weights: Arrays, parameters: int, save: Save, shard_bytes: int) -> None:
    """Write arrays in their order, and the index that names the file of each; `weights` is empty afterwards."""
    sizes = {name: int(array.nbytes) for name, array in weights.items()}
    shards = plan_shards(sizes, shard_bytes)
    places: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = "model.safetensors" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save(folder / file, {name: weights.pop(name) for name in names})
        places |= dict.fromkeys(names, file)
    metadata = {"total_size": sum(sizes.values()), "total_parameters": parameters}
    write_json(folder / INDEX, {"metadata": metadata, "weight_map": dict(sorted(places.items()))})


def plan_shards(sizes: dict[str, int], shard_bytes: int) -> list[list[str]]:
    """Group tensor names, in order, into shards of at most `shard_bytes`; a larger tensor gets its own."""
    shards: list[list[str]] = []
    size = 0
    for name, more in sizes.items():
        if not shards or size + more > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += more
    return shards
