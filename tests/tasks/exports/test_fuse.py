from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from storage.errors import PrerequisiteError, StoreError
from tasks.exports import fuse
from tasks.exports.fuse import fuse_lazily, write_weights
from tests.tasks.exports.conftest import CONFIG, KEYS, forget, load_weights, write_adapter, write_base, write_quantised


def reference_weights(base: Path, adapter: Path, dequantize: bool) -> dict[str, Any]:
    """What ``mlx_lm.fuse`` does, in memory."""
    from mlx.utils import tree_flatten, tree_unflatten
    from mlx_lm.utils import dequantize_model, load

    model, _ = load(str(base), adapter_path=str(adapter))
    fused = [(name, m.fuse(dequantize=dequantize)) for name, m in model.named_modules() if hasattr(m, "fuse")]
    assert len(fused) == 2 * len(KEYS)
    model.update_modules(tree_unflatten(fused))
    if dequantize:
        model = dequantize_model(model)
    return dict(tree_flatten(model.parameters()))


@pytest.mark.parametrize(
    ("four_bits", "dequantize", "shard_bytes"),
    [(False, False, 40_000), (True, False, 2**30), (True, True, 2**30)],
)
def test_the_weights_equal_those_of_mlx_lm_to_the_bit(
    float_base: Path,
    four_bit_base: Path,
    monkeypatch: pytest.MonkeyPatch,
    four_bits: bool,
    dequantize: bool,
    shard_bytes: int,
    adapter: Path,
    tmp_path: Path,
) -> None:
    import mlx.core as mx

    monkeypatch.setattr(fuse, "BLOCK_VALUES", 1500)  # blocks of rows that do not divide the layers
    folder = four_bit_base if four_bits else float_base
    lazy = fuse_lazily(folder, adapter, dequantize=dequantize)
    assert (lazy.base_quantized, lazy.quantized) == (four_bits, four_bits and not dequantize)
    sizes = {name: array.nbytes for name, array in lazy.weights.items()}
    write_weights(tmp_path, lazy, forget, shard_bytes)
    assert not lazy.weights
    found, expected = load_weights(tmp_path), reference_weights(folder, adapter, dequantize)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype and mx.array_equal(found[name], value).item(), name

    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(sizes.values())
    assert index["weight_map"].keys() == sizes.keys()
    files = [path.name for path in sorted(tmp_path.glob("*.safetensors"))]
    assert sorted(set(index["weight_map"].values())) == files
    assert files[0] == ("model.safetensors" if shard_bytes == 2**30 else f"model-00001-of-{len(files):05d}.safetensors")


def test_untouched_layers_of_a_four_bit_base_are_copied(four_bit_base: Path, adapter: Path) -> None:
    import mlx.core as mx

    before, fused = load_weights(four_bit_base), fuse_lazily(four_bit_base, adapter).weights
    changed = {name.rsplit(".", 1)[0] for name in before if not mx.array_equal(fused[name], before[name]).item()}
    assert changed == {f"model.layers.{layer}.{key}" for layer in (0, 1) for key in KEYS}


def test_memory_is_bounded_by_the_shard_and_not_by_the_model(tmp_path: Path) -> None:
    import mlx.core as mx

    config = CONFIG | {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 10, "head_dim": 64}
    base = write_base(tmp_path / "base", config)
    adapter = write_adapter(base, tmp_path / "adapter")
    (tmp_path / "out").mkdir()
    mx.clear_cache()
    held = mx.get_active_memory()
    mx.reset_peak_memory()
    lazy = fuse_lazily(base, adapter)
    size = lazy.bytes
    assert mx.get_active_memory() - held < size / 20, "describing the model reads next to nothing"
    write_weights(tmp_path / "out", lazy, forget, shard_bytes=size // 10)
    assert mx.get_peak_memory() - held < size / 4


def test_a_wide_layer_that_stays_quantised_is_never_held_as_floats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlx.core as mx

    monkeypatch.setattr(fuse, "BLOCK_VALUES", 2**16)
    base = write_quantised(tmp_path / "base", write_base(tmp_path / "float", CONFIG | {"intermediate_size": 2**15}))
    adapter = write_adapter(base, tmp_path / "adapter")
    mx.clear_cache()
    held = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(fuse_lazily(base, adapter).weights["model.layers.0.mlp.gate_proj.weight"])
    assert mx.get_peak_memory() - held < 2**15 * 64 * 4, "less than its floats"


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("base", ["float_base", "four_bit_base"])
def test_the_model_is_quantised_from_floats(
    request: pytest.FixtureRequest, base: str, adapter: Path, bits: int
) -> None:
    lazy = fuse_lazily(request.getfixturevalue(base), adapter, bits=bits, group_size=32)
    assert lazy.config["quantization"] == {"group_size": 32, "bits": bits, "mode": "affine"}
    assert lazy.weights["model.layers.0.mlp.down_proj.weight"].shape == (64, 96 * bits // 32)


def test_an_adapter_of_another_model(float_base: Path, tmp_path: Path) -> None:
    import mlx.core as mx

    folder = write_adapter(float_base, tmp_path / "a")
    mx.save_safetensors(str(folder / "adapters.safetensors"), {"model.layers.9.self_attn.q_proj.lora_a": mx.ones(3)})
    with pytest.raises(StoreError, match="does not fit the base model"):
        fuse_lazily(float_base, folder)


def test_a_base_that_wants_its_own_code_is_refused(float_base: Path, adapter: Path, tmp_path: Path) -> None:
    base = shutil.copytree(float_base, tmp_path / "base")
    (base / "config.json").write_text(json.dumps(CONFIG | {"model_file": "modeling_evil.py"}))
    with pytest.raises(PrerequisiteError, match="cannot be loaded"):
        fuse_lazily(base, adapter)
