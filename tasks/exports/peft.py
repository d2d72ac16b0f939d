"""The adapter in the form that the PEFT library opens, beside a base model in Hugging Face's form."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from storage.atomic import write_json
from storage.errors import ParameterError
from tasks.exports.model_card import base_name

LAYER = re.compile(r"^model\.layers\.(\d+)\.(.+)$")
PARTS = {"lora_a": "lora_A", "lora_b": "lora_B"}


def write_peft(folder: Path, adapter: Path, adapter_config: dict[str, Any], run: dict[str, Any]) -> None:
    """Write ``adapter_model.safetensors`` and ``adapter_config.json``.

    MLX multiplies the input from the left, ``x A B * scale`` with A of shape (in, rank) and B of shape (rank, out);
    PEFT holds both transposed and scales by ``lora_alpha / r``.

    Raises:
        ParameterError: The adapter is no plain LoRA adapter.
    """
    import mlx.core as mx

    require_plain_lora(adapter_config)
    weights: Any = mx.load(str(adapter / "adapters.safetensors"))
    kinds = {name.rsplit(".", 1)[-1] for name in weights}
    if kinds != set(PARTS):
        raise ParameterError(f"only a LoRA adapter has a PEFT form, this one holds {sorted(kinds)}; use peft=false")
    turned = {}
    for name, value in weights.items():
        module, part = name.rsplit(".", 1)
        turned[f"base_model.model.{module}.{PARTS[part]}.weight"] = mx.contiguous(value.T)
    folder.mkdir(exist_ok=True)
    mx.save_safetensors(str(folder / "adapter_model.safetensors"), turned, metadata={"format": "pt"})
    modules = {name.rsplit(".", 1)[0] for name in weights}
    write_json(folder / "adapter_config.json", peft_config(modules, adapter_config["lora_parameters"], base_name(run)))


def require_plain_lora(adapter_config: dict[str, Any]) -> None:
    """Refuse an adapter that has no PEFT form here.

    Raises:
        ParameterError: It is no LoRA adapter.
    """
    if (kind := adapter_config.get("fine_tune_type", "lora")) != "lora":
        raise ParameterError(f"only a LoRA adapter has a PEFT form, this one is {kind!r}; use peft=false")


def peft_config(modules: set[str], parameters: dict[str, Any], base: str) -> dict[str, Any]:
    """Write PEFT's configuration of an adapter on these modules.

    A regular expression names the modules: a list of suffixes would reach layers that have no adapter.
    """
    layers: dict[str, set[int]] = {}
    for module in modules:
        found = LAYER.match(module)
        if found is None:
            raise ParameterError(f"the adapter changes {module}, which is no layer; use peft=false")
        layers.setdefault(found.group(2), set()).add(int(found.group(1)))
    patterns = [
        rf"model\.layers\.({'|'.join(map(str, sorted(numbers)))})\.{re.escape(suffix)}"
        for suffix, numbers in sorted(layers.items())
    ]
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": parameters["rank"],
        "lora_alpha": parameters["scale"] * parameters["rank"],
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": "|".join(patterns),
    }
