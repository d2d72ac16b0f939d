"""Write a GGUF file, the format of llama.cpp, Ollama and LM Studio, one tensor at a time.

Tensor names, layouts and block formats come from the ``gguf`` package; which model computes the same in llama.cpp as
in MLX is decided here. K-quants come from llama.cpp's own ``llama-quantize``.
"""

from __future__ import annotations

import math
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from storage.errors import ParameterError, PrerequisiteError, UserError
from storage.events import Emit
from storage.model_folder import read_config
from tasks.exports.fuse import LazyModel
from tasks.exports.gguf_tokenizer import add_tokenizer, read_tokenizer
from tasks.exports.parameters import K_QUANTS

ARCHITECTURES = {"llama": "LLAMA", "mistral": "LLAMA", "qwen2": "QWEN2"}
"""Supported model types and the name by which ``gguf`` knows their layout."""
BYTES_PER_WEIGHT = {"f16": 2.0, "bf16": 2.0, "q8_0": 1.07, "q4_0": 0.75, "q4_k_m": 2.7, "q5_k_m": 2.8, "q6_k": 2.9}
"""Room on disk, rounded up; K-quants are made from a file of halves that is deleted afterwards."""
QUANTISER = "llama-quantize"
ENCODED_VALUES = 2**22
HALF_MAX = 65504.0
EMBEDDINGS = ("token_embd.weight", "output.weight")


def check_gguf(kind: str, base: Path) -> None:
    """Raise UserError before any work for what cannot be written, or llama.cpp would compute otherwise than MLX."""
    config = read_config(base)
    model_type = config.get("model_type")
    if model_type not in ARCHITECTURES:
        raise ParameterError(
            f"models of type {model_type!r} cannot be written to GGUF; supported are {', '.join(ARCHITECTURES)}. "
            "Use gguf='none' and open the MLX folder"
        )
    if kind in K_QUANTS and shutil.which(QUANTISER) is None:
        raise PrerequisiteError(
            f"gguf={kind!r} is made by llama.cpp's {QUANTISER}, which is not installed; install it "
            "(brew install llama.cpp) or use gguf='q8_0' or 'q4_0'"
        )
    if config.get("rope_traditional"):
        raise ParameterError("rope_traditional models cannot be written to GGUF; use gguf='none'")
    if set(config.get("layer_types") or ()) - {"full_attention"}:
        raise ParameterError("models with sliding attention in some layers cannot be written to GGUF; use gguf='none'")
    if (rope := _rope_kind(config.get("rope_scaling"))) not in ("default", "linear", "llama3"):
        raise ParameterError(
            f"rope scaling {rope!r} cannot be written to GGUF, only linear and llama3; use gguf='none'"
        )
    read_tokenizer(base)


def gguf_bytes(model: LazyModel, kind: str) -> int:
    """Estimate the room that a file of a kind takes while it is written."""
    return int(sum(array.size for array in model.weights.values()) * BYTES_PER_WEIGHT[kind])


def write_gguf(path: Path, folder: Path, model: LazyModel, kind: str, emit: Emit) -> None:
    """Write a float model, whose weights are used up, as a GGUF file of a kind that `check_gguf` accepts.

    The folder holds tokenizer and chat template. UserError if a weight has no place or is too large in that kind.
    """
    if kind not in K_QUANTS:
        _write_plain(path, folder, model, kind, emit)
        return
    halves = path.with_name(f"{path.name}.f16")
    try:
        _write_plain(halves, folder, model, "f16", emit)
        command = [QUANTISER, str(halves), str(path), kind.upper()]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode != 0 or not path.is_file():
            raise UserError(f"{QUANTISER} ended with status {done.returncode}: {(done.stderr or done.stdout)[-500:]}")
    finally:
        halves.unlink(missing_ok=True)


def _write_plain(path: Path, folder: Path, model: LazyModel, kind: str, emit: Emit) -> None:
    """Write one of the kinds that the ``gguf`` package encodes, one tensor at a time."""
    import gguf
    import mlx.core as mx

    architecture = gguf.MODEL_ARCH[ARCHITECTURES[model.config["model_type"]]]
    names = _tensor_names(architecture, model)
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    try:
        _add_hyperparameters(writer, model)
        writer.add_name(path.name.partition(".gguf")[0])
        writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{kind.upper()}"])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        add_tokenizer(writer, folder, int(model.weights["model.embed_tokens.weight"].shape[0]))
        factors = rope_factors(model.arguments)
        if factors is not None:
            writer.add_tensor_info("rope_freqs.weight", factors.shape, factors.dtype, factors.nbytes)
        types = {}
        for name, target in names.items():
            shape = model.weights[name].shape
            types[name] = _block_type(kind, target, shape)
            stored = gguf.quants.quant_shape_to_byte_shape(shape, types[name])
            writer.add_tensor_info(target, stored, np.dtype(np.uint8), math.prod(stored), types[name])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        if factors is not None:
            writer.write_tensor_data(factors)
        for number, name in enumerate(names, start=1):
            writer.write_tensor_data(_Encoded(name, types[name], model))
            mx.clear_cache()
            if number % 64 == 0 or number == len(names):
                message = f"wrote {number} of {len(names)} tensors"
                emit("progress", stage="gguf", done=number, total=len(names), message=message)
    finally:
        writer.close()


def _tensor_names(architecture: Any, model: LazyModel) -> dict[str, str]:
    """Return llama.cpp's name of each weight, in the order in which they are written."""
    import gguf

    known = gguf.get_tensor_name_map(architecture, model.arguments.num_hidden_layers)
    names = {name: known.get_name(name, try_suffixes=(".weight", ".bias")) for name in model.weights}
    if unknown := sorted(name for name, target in names.items() if target is None):
        raise ParameterError(f"GGUF has no place for {unknown[0]} ({len(unknown)} such weights); use gguf='none'")
    return {name: str(target) for name, target in names.items()}


def _add_hyperparameters(writer: Any, model: LazyModel) -> None:
    """Add the numbers that define the computation, as MLX itself reads them."""
    import gguf

    arguments = model.arguments
    writer.add_vocab_size(int(model.weights["model.embed_tokens.weight"].shape[0]))
    writer.add_context_length(int(model.config.get("max_position_embeddings") or 2048))
    writer.add_embedding_length(arguments.hidden_size)
    writer.add_block_count(arguments.num_hidden_layers)
    writer.add_feed_forward_length(arguments.intermediate_size)
    writer.add_head_count(arguments.num_attention_heads)
    writer.add_head_count_kv(arguments.num_key_value_heads)
    writer.add_key_length(_head_width(arguments))
    writer.add_value_length(_head_width(arguments))
    writer.add_rope_dimension_count(_head_width(arguments))
    writer.add_layer_norm_rms_eps(arguments.rms_norm_eps)
    writer.add_rope_freq_base(float(arguments.rope_theta))
    if _rope_kind(arguments.rope_scaling) == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(arguments.rope_scaling["factor"]))


def _head_width(arguments: Any) -> int:
    return int(getattr(arguments, "head_dim", None) or arguments.hidden_size // arguments.num_attention_heads)


def _rope_kind(scaling: Any) -> str:
    """Name how rotary positions are stretched."""
    return str((scaling or {}).get("type") or (scaling or {}).get("rope_type") or "default")


def rope_factors(arguments: Any) -> npt.NDArray[np.float32] | None:
    """Return by how much each rotary wavelength is stretched (float32, half a head), from MLX's own wavelengths.

    llama.cpp divides its frequencies by them; none if nothing is stretched one by one.
    """
    if _rope_kind(arguments.rope_scaling) != "llama3":
        return None
    from mlx_lm.models.rope_utils import initialize_rope

    width = _head_width(arguments)
    rope = initialize_rope(
        width, arguments.rope_theta, False, arguments.rope_scaling, arguments.max_position_embeddings
    )
    plain = np.float64(arguments.rope_theta) ** (np.arange(0, width, 2) / width)
    return np.asarray(np.array(rope._freqs) / plain, dtype=np.float32)


def _rotary_layout(name: str, model: LazyModel) -> Any:
    """Take a weight out of the model; queries and keys of the llama layout come back with their rows reordered.

    MLX rotates the first half of a head against the second, llama.cpp's llama neighbours against each other.
    """
    array = model.weights.pop(name)
    heads = {"q_proj": model.arguments.num_attention_heads, "k_proj": model.arguments.num_key_value_heads}
    projection = name.rsplit(".", 2)[-2]
    if ARCHITECTURES[model.config["model_type"]] != "LLAMA" or projection not in heads:
        return array
    rows = array.shape[0]
    halves = array.reshape(heads[projection], 2, rows // heads[projection] // 2, *array.shape[1:])
    return halves.swapaxes(1, 2).reshape(array.shape)


def _block_type(kind: str, target: str, shape: tuple[int, ...]) -> Any:
    """Choose how a weight is stored: vectors whole, embeddings at 8 bits or more, halves where blocks do not fit."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    if len(shape) == 1:
        return GGMLQuantizationType.F32
    chosen = GGMLQuantizationType["Q8_0" if kind == "q4_0" and target in EMBEDDINGS else kind.upper()]
    return chosen if shape[-1] % GGML_QUANT_SIZES[chosen][0] == 0 else GGMLQuantizationType.F16


class _Encoded:
    """A weight as the writer takes it: computed, encoded and written some rows at a time."""

    def __init__(self, name: str, kind: Any, model: LazyModel) -> None:
        import gguf

        self._name, self._kind = name, kind
        self._packed = model.packed.get(name)
        array = _rotary_layout(name, model)
        self._array = array.reshape(-1, array.shape[-1])
        self.nbytes = math.prod(gguf.quants.quant_shape_to_byte_shape(self._array.shape, kind))

    def tofile(self, file: Any) -> None:
        """Write the encoded rows."""
        import gguf
        import mlx.core as mx

        if self._packed is None:
            mx.eval(self._array)
        height, width = self._array.shape
        step = max(1, ENCODED_VALUES // width)
        for start in range(0, height, step):
            block = slice(start, start + step)
            rows = self._packed.rows(block) if self._packed else self._array[block]
            rows = np.array(rows.astype(mx.float32))
            if self._kind == gguf.GGMLQuantizationType.F16 and np.abs(rows).max(initial=0) > HALF_MAX:
                raise ParameterError(
                    f"{self._name} holds a value beyond {HALF_MAX:.0f}, too large for gguf='f16'; use 'bf16'"
                )
            np.ascontiguousarray(gguf.quants.quantize(rows, self._kind)).tofile(file)
