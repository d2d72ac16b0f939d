"""Peak memory of fusing an adapter into growing 4-bit models, beside ``mlx_lm.fuse``; one JSON line per model.

The models are random Llamas that differ in the number of layers alone. The last one has the widths and the vocabulary
of Llama 70B but a single layer: as the peak does not grow with the layers, it is the peak of the whole 70B model.
Each measurement is a process of its own; both results are compared tensor by tensor.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measuring import ROOT, peak_bytes, run_alone

TOKENIZER = ROOT / "sandbox" / "base_model"
WIDTHS = {"hidden_size": 2048, "intermediate_size": 5632, "num_attention_heads": 16, "num_key_value_heads": 4}
WIDTHS_70B = {"hidden_size": 8192, "intermediate_size": 28672, "num_attention_heads": 64, "num_key_value_heads": 8}
MODELS = {
    "6 layers": WIDTHS | {"vocab_size": 32000, "num_hidden_layers": 6},
    "20 layers": WIDTHS | {"vocab_size": 32000, "num_hidden_layers": 20},
    "48 layers": WIDTHS | {"vocab_size": 32000, "num_hidden_layers": 48},
    "70B widths, 1 layer": WIDTHS_70B | {"vocab_size": 128256, "num_hidden_layers": 1},
}
ALONE = ("70B widths, 1 layer",)
"""Models that are not given to ``mlx_lm.fuse``, which would need more memory than a small machine has."""
AS_GGUF = ("6 layers", "20 layers", *ALONE)
RANK = 16
GROUP = 64


def write_model(folder: Path, changes: dict[str, int]) -> None:
    """Write a random 4-bit Llama and an adapter of all its projections, tensor by tensor."""
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.models.llama import Model, ModelArgs
    from mlx_lm.utils import quantize_model

    config: dict[str, Any] = {"model_type": "llama", "rms_norm_eps": 1e-5, "tie_word_embeddings": False} | changes
    model = Model(ModelArgs.from_dict(config))
    model.set_dtype(mx.bfloat16)
    model, config = quantize_model(model, config, GROUP, 4)  # lazy: only shapes and types are used
    shapes = {name: (value.shape, value.dtype) for name, value in tree_flatten(model.parameters())}
    del model
    base, adapter = folder / "base", folder / "adapter"
    for place in (base, adapter):
        place.mkdir(parents=True)
    for path in TOKENIZER.glob("tokenizer*"):
        shutil.copyfile(path, base / path.name)
    (base / "config.json").write_text(json.dumps(config))
    names = sorted(shapes)
    parts = [names[start : start + 60] for start in range(0, len(names), 60)]
    for number, part in enumerate(parts, start=1):
        weights = {name: draw(*shapes[name]) for name in part}
        mx.save_safetensors(str(base / f"model-{number:05d}-of-{len(parts):05d}.safetensors"), weights)
    inputs = {name: shape[0][1] * GROUP for name, shape in shapes.items() if name.endswith("proj.scales")}
    lora = {}
    for name, width in inputs.items():
        module, rows = name.removesuffix(".scales"), shapes[name][0][0]
        lora[f"{module}.lora_a"] = 0.01 * mx.random.normal((width, RANK))
        lora[f"{module}.lora_b"] = 0.01 * mx.random.normal((RANK, rows))
    mx.save_safetensors(str(adapter / "adapters.safetensors"), lora)
    keys = sorted({name.split(".", 3)[3].removesuffix(".scales") for name in inputs})
    parameters = {"rank": RANK, "scale": 2.0, "dropout": 0.0, "keys": keys}
    adapter_config = {"fine_tune_type": "lora", "num_layers": -1, "lora_parameters": parameters}
    (adapter / "adapter_config.json").write_text(json.dumps(adapter_config))


def draw(shape: tuple[int, ...], dtype: Any) -> Any:
    """Draw a tensor of packed 4-bit weights, scales or norms."""
    import mlx.core as mx

    if dtype == mx.uint32:
        return mx.random.randint(0, 2**31 - 1, shape).astype(mx.uint32)
    return (0.01 * mx.random.normal(shape)).astype(dtype)


def fuse(folder: Path) -> None:
    """Fuse as an export does."""
    from tasks.exports.fuse import fuse_lazily, write_weights

    (folder / "ours").mkdir()
    write_weights(folder / "ours", fuse_lazily(folder / "base", folder / "adapter"), lambda *_, **__: None)


def fuse_with_mlx_lm(folder: Path) -> None:
    """Fuse with ``mlx_lm.fuse``."""
    from mlx_lm import fuse as program

    places = {"--model": "base", "--adapter-path": "adapter", "--save-path": "theirs"}
    sys.argv = ["fuse", *(word for option, place in places.items() for word in (option, str(folder / place)))]
    program.main()


def write_gguf_file(folder: Path) -> None:
    """Write base plus adapter as a GGUF file of 8 bits."""
    from tasks.exports.fuse import fuse_lazily
    from tasks.exports.gguf_file import write_gguf

    model = fuse_lazily(folder / "base", folder / "adapter", dequantize=True)
    write_gguf(folder / "ours.gguf", folder / "base", model, "q8_0", lambda *_, **__: None)


def same_tensors(folder: Path) -> bool:
    """Compare the two fused models tensor by tensor."""
    import mlx.core as mx

    def load(name: str) -> dict[str, Any]:
        arrays: dict[str, Any] = {}
        for path in (folder / name).glob("model*.safetensors"):
            shard: Any = mx.load(str(path))
            arrays |= shard
        return arrays

    ours, theirs = load("ours"), load("theirs")
    if ours.keys() != theirs.keys():
        return False
    return all(mx.array_equal(ours.pop(name), theirs.pop(name)).item() for name in sorted(ours))


WORK = {"write": None, "ours": fuse, "mlx_lm": fuse_with_mlx_lm, "gguf": write_gguf_file}


def child(work: str, folder: Path) -> None:
    """Do one piece of work; print seconds and peaks in GB."""
    from storage import blas

    blas.load()
    import mlx.core as mx

    started = time.perf_counter()
    task = WORK[work]
    if task is None:
        write_model(folder, json.loads((folder / "model.json").read_text()))
    else:
        task(folder)
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "peak": mx.get_peak_memory() / 1e9, "resident": peak_bytes() / 1e9}))


def report(name: str, changes: dict[str, int]) -> dict[str, Any]:
    """Measure one model."""
    with tempfile.TemporaryDirectory(prefix="exports-") as temporary:
        folder = Path(temporary)
        (folder / "model.json").write_text(json.dumps(changes))
        run_alone("exports", "write", folder)
        size = sum(path.stat().st_size for path in (folder / "base").glob("*.safetensors")) / 1e9
        ours = run_alone("exports", "ours", folder)
        line: dict[str, Any] = {"benchmark": "exports", "model": name, "gigabytes": round(size, 3)}
        line |= {f"{key}_streaming": round(value, 2) for key, value in ours.items()}
        line["peak_to_model_streaming"] = round(ours["peak"] / size, 2)
        if name not in ALONE:
            theirs = run_alone("exports", "mlx_lm", folder)
            line |= {f"{key}_mlx_lm": round(value, 2) for key, value in theirs.items()}
            line["peak_to_model_mlx_lm"] = round(theirs["peak"] / size, 2)
            line["peak_ratio"] = round(theirs["peak"] / ours["peak"], 2)
            line["seconds_ratio"] = round(theirs["seconds"] / ours["seconds"], 2)
            line["equal_to_the_bit"] = same_tensors(folder)
            for place in ("ours", "theirs"):
                shutil.rmtree(folder / place)
        if name in AS_GGUF:
            line |= {f"gguf_{key}": round(value, 2) for key, value in run_alone("exports", "gguf", folder).items()}
        return line


def main() -> None:
    """Measure and print."""
    if len(sys.argv) == 3:
        child(sys.argv[1], Path(sys.argv[2]))
        return
    for name, changes in MODELS.items():
        print(json.dumps(report(name, changes)), flush=True)


if __name__ == "__main__":
    main()
