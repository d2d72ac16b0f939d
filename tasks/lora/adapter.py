"""Low-rank adapters on the last layers of a frozen model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.tuner.dora import DoRALinear
from mlx_lm.tuner.lora import LoRALinear
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlx_lm.utils import get_total_parameters

from storage.atomic import write_json
from storage.errors import ParameterError
from storage.model_folder import ADAPTER_CONFIG, ADAPTERS
from tasks.lora.recipe import Recipe


class KeyedDropout(nn.Module):  # type: ignore[misc]  # mlx has no types
    """Dropout whose mask depends on a key that is set from outside.

    Gradient checkpointing runs the forward pass twice; drawing from the global generator would give it two masks
    and wrong gradients.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self._key = mx.random.key(0)  # a leading underscore keeps it out of the parameters

    def __call__(self, x: mx.array) -> mx.array:
        """Drop a fraction of the inputs in training; scale up the rest."""
        if not self.training:
            return x
        keep = 1.0 - self.rate
        return x * (mx.random.bernoulli(keep, x.shape, key=self._key) / keep).astype(x.dtype)


@dataclass(frozen=True)
class Adapter:
    """The adapter attached to a model."""

    layers: int
    """How many of the last layers carry it."""
    trainable: int
    parameters: int
    """Parameters of the base model; a quantised one counts as it was before."""
    dropouts: tuple[KeyedDropout, ...]

    @property
    def summary(self) -> str:
        """The trainable parameters, as the guide prints them."""
        fraction = self.trainable / self.parameters
        return f"Trainable parameters: {self.trainable:,} / {self.parameters:,} ({fraction:.2%})"

    def set_dropout_keys(self, seed: int, batch: int) -> None:
        """Choose every dropout mask of a micro-batch; the same seed and number choose the same masks."""
        if self.dropouts:
            keys = mx.random.split(mx.random.key((seed << 32) | batch), len(self.dropouts))
            for dropout, key in zip(self.dropouts, keys, strict=True):
                dropout._key = key


def attach_adapter(model: nn.Module, recipe: Recipe) -> Adapter:
    """Freeze a model and put an adapter, drawn by the seed, on its last layers; ParameterError if it has no place."""
    total = len(model.layers)
    layers = total if recipe.lora_layers < 0 else min(recipe.lora_layers, total)
    if layers == 0:
        raise ParameterError("lora_layers 0 trains nothing; choose at least 1, or -1 for all layers")
    modules = [entry for layer in model.layers[-layers:] for entry in layer.named_modules()]
    known = sorted({path for path, module in modules if isinstance(module, nn.Linear | nn.QuantizedLinear)})
    if unknown := [target for target in recipe.target_modules if target not in known]:
        # The library ignores paths that it does not know, and would train nothing without a word.
        raise ParameterError(
            f"target_modules {', '.join(unknown)} do not exist in the layers of {recipe.model}; "
            f"choose from {', '.join(known)}"
        )
    model.freeze()
    mx.random.seed(recipe.seed)
    linear_to_lora_layers(model, layers, lora_parameters(recipe), use_dora=recipe.lora_type == "dora")
    dropouts = []
    for _, module in model.named_modules():
        if recipe.lora_dropout and isinstance(module, LoRALinear | DoRALinear):
            module.dropout = KeyedDropout(recipe.lora_dropout)
            dropouts.append(module.dropout)
    mx.eval(model.parameters())
    trainable = sum(tensor.size for tensor in trainable_tensors(model).values())
    return Adapter(layers, trainable, int(get_total_parameters(model)), tuple(dropouts))


def lora_parameters(recipe: Recipe) -> dict[str, float | list[str]]:
    """Return the adapter's shape in the words of mlx-lm."""
    return {
        "rank": recipe.lora_rank,
        "scale": recipe.update_scale,
        "dropout": recipe.lora_dropout,
        "keys": list(recipe.target_modules),
    }


def trainable_tensors(model: nn.Module) -> dict[str, mx.array]:
    """Return the adapter's tensors by path."""
    return dict(tree_flatten(model.trainable_parameters()))


def save_adapter(folder: Path, model: nn.Module, adapter: Adapter, recipe: Recipe) -> None:
    """Write the two files that ``mlx_lm.load(base, adapter_path=folder)`` reads."""
    mx.save_safetensors(str(folder / ADAPTERS), trainable_tensors(model))
    config = {
        "fine_tune_type": recipe.lora_type,
        "model": recipe.model,
        "num_layers": adapter.layers,
        "lora_parameters": lora_parameters(recipe),
    }
    write_json(folder / ADAPTER_CONFIG, config)


@contextmanager
def adapter_off(model: nn.Module) -> Iterator[None]:
    """Let a model be its frozen base in this block: each adapted layer passes its input to the layer that it wraps."""
    adapted = [module for _, module in model.named_modules() if "lora_a" in module and "linear" in module]
    classes = [type(module) for module in adapted]
    try:
        for module in adapted:
            # A scale of 0 would not do: DoRA's length is learned as well.
            module.__class__ = _calling(type(module), "Bare", lambda module, *inputs: module.linear(*inputs))
        yield
    finally:
        for module, own in zip(adapted, classes, strict=True):
            module.__class__ = own


def _calling(base: type[Any], prefix: str, call: Callable[..., Any]) -> type[Any]:
    return type(f"{prefix}{base.__name__}", (base,), {"__call__": call})


def checkpoint_activations(model: nn.Module) -> None:
    """Let every layer of this model recompute its activations in the backward pass.

    Each layer gets a subclass of its own; changing the class itself would reach every other model of the process.
    """
    for layer in model.layers:
        layer.__class__ = _recomputing(type(layer))


def _recomputing(base: type[Any]) -> type[Any]:
    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        def forward(parameters: Any, *inputs: Any, **options: Any) -> Any:
            layer.update(parameters)
            return base.__call__(layer, *inputs, **options)

        return mx.checkpoint(forward)(layer.trainable_parameters(), *args, **kwargs)

    return _calling(base, "Recomputing", call)
