"""Sizes of a transformer, read from its configuration and the headers of its weight files; nothing is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from storage.model_folder import WEIGHTS, read_header, text_config

CONFIG_TYPE_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
HEADER_TYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
GROUP_OVERHEAD_BITS = 0.5
"""A 16-bit scale and a 16-bit bias for each 64 weights."""


@dataclass(frozen=True)
class Architecture:
    """What the memory of a model depends on; sizes in elements, weights in bytes."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    parameters: int
    weight_bytes: int
    """Size of the weights on disk, hence in memory."""
    float_bytes: int
    """Bytes of an activation: 2 for bfloat16 and float16, 4 for float32."""
    quantised: bool

    def widths(self, target: str) -> tuple[int, int]:
        """Return inputs and outputs of a linear layer by its path within a transformer layer."""
        queries, values = self.heads * self.head_dim, self.kv_heads * self.head_dim
        known = {
            "q_proj": (self.hidden, queries),
            "k_proj": (self.hidden, values),
            "v_proj": (self.hidden, values),
            "o_proj": (queries, self.hidden),
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }
        # A name that no family above uses: the widest layer is assumed, so that the estimate errs upwards.
        return known.get(target.rsplit(".", 1)[-1], (self.hidden, max(self.hidden, self.intermediate)))

    def in_four_bits(self) -> Architecture:
        """Return the sizes of a 4-bit copy."""
        if self.quantised:
            return self
        return replace(self, weight_bytes=round(self.parameters * (4 + GROUP_OVERHEAD_BITS) / 8), quantised=True)


def _widest(size: Any) -> int:
    """Read a size; of one that differs from layer to layer the largest, so that an estimate errs upwards."""
    found = max(map(int, size)) if isinstance(size, list) else int(size)
    if found < 1:
        raise ValueError(f"{found} is not a size")
    return found


def architecture_of(config: Mapping[str, Any], folder: Path | None = None) -> Architecture | None:
    """Read a configuration, and the headers of the weights in its folder; none if it is not of a transformer."""
    text = text_config(config)
    try:
        layers, hidden = _widest(text["num_hidden_layers"]), _widest(text["hidden_size"])
        heads, vocabulary = _widest(text["num_attention_heads"]), _widest(text["vocab_size"])
        intermediate = _widest(text.get("intermediate_size") or 4 * hidden)
        kv_heads = _widest(text.get("num_key_value_heads") or heads)
        head_dim = _widest(text.get("head_dim") or hidden // heads)
        experts = _widest(text.get("num_local_experts") or text.get("num_experts") or 1)
        quantisation = text.get("quantization") or text.get("quantization_config")
        float_bytes = CONFIG_TYPE_BYTES.get(str(text.get("torch_dtype") or text.get("dtype")), 2)
        bits = _widest(quantisation.get("bits", 4)) + GROUP_OVERHEAD_BITS if quantisation else 8 * float_bytes
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError):
        return None
    attention = hidden * head_dim * (2 * heads + 2 * kv_heads)
    embeddings = vocabulary * hidden * (1 if text.get("tie_word_embeddings") else 2)
    parameters = embeddings + hidden + layers * (attention + experts * 3 * hidden * intermediate + 2 * hidden)
    weight_bytes = round(parameters * bits / 8)
    files = sorted(folder.glob(WEIGHTS)) if folder is not None else []
    tensors = [tensor for file in files for tensor in read_header(file).values()]
    if tensors:
        weight_bytes = sum(tensor.end - tensor.start for tensor in tensors)
        if floats := [tensor for tensor in tensors if tensor.dtype in HEADER_TYPE_BYTES]:
            float_bytes = HEADER_TYPE_BYTES[max(floats, key=lambda tensor: tensor.end - tensor.start).dtype]
        if not quantisation:
            parameters = sum(prod(tensor.shape) for tensor in tensors)
    sizes = (layers, hidden, intermediate, heads, kv_heads, head_dim, vocabulary)
    return Architecture(*sizes, parameters, weight_bytes, float_bytes, bool(quantisation))
