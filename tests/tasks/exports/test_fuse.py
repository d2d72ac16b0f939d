from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from storage.errors import ParameterError, StoreError
from tasks.exports.fuse import fuse_lazily, plan_shards, read_adapter_config, write_weights
from tests.tasks.exports.conftest import CONFIG, KEYS, Emit, write_adapter


def load_weights(folder: Path) -> dict[str, Any]:
    import mlx.core as mx

    weights: dict[str, Any] = {}
    for path in sorted(folder.glob("model*.safetensors")):
        shard: Any = mx.load(str(path))
        weights |= shard
    return weights


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


def assert_equal_weights(found: dict[str, Any], expected: dict[str, Any]) -> None:
    import mlx.core as mx

    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        assert mx.array_equal(found[name], value).item(), name


class TestEqualToMlxLm:
    def test_float_base_over_many_shards(self, float_base: Path, adapter: Path, tmp_path: Path, emit: Emit) -> None:
        lazy = fuse_lazily(float_base, adapter)
        sizes = {name: array.nbytes for name, array in lazy.weights.items()}
        write_weights(tmp_path, lazy, emit, shard_bytes=40_000)
        assert not lazy.weights
        assert_equal_weights(load_weights(tmp_path), reference_weights(float_base, adapter, False))

        index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == sum(sizes.values())
        assert index["weight_map"].keys() == sizes.keys()
        files = sorted(set(index["weight_map"].values()))
        assert files == [path.name for path in sorted(tmp_path.glob("*.safetensors"))]
        assert len(files) > 2
        assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"

    def test_the_adapter_changes_the_weights(self, float_base: Path, adapter: Path) -> None:
        import mlx.core as mx

        base = load_weights(float_base)
        fused = fuse_lazily(float_base, adapter).weights
        changed = {name for name in base if not mx.array_equal(base[name], fused[name]).item()}
        assert changed == {f"model.layers.{layer}.{key}.weight" for layer in (0, 1) for key in KEYS}

    def test_four_bit_base_stays_four_bit(self, four_bit_base: Path, adapter: Path, tmp_path: Path, emit: Emit) -> None:
        lazy = fuse_lazily(four_bit_base, adapter)
        assert lazy.quantized and lazy.base_quantized
        write_weights(tmp_path, lazy, emit)
        assert [path.name for path in tmp_path.glob("*.safetensors")] == ["model.safetensors"]
        assert_equal_weights(load_weights(tmp_path), reference_weights(four_bit_base, adapter, False))

    def test_four_bit_base_dequantised(self, four_bit_base: Path, adapter: Path, tmp_path: Path, emit: Emit) -> None:
        lazy = fuse_lazily(four_bit_base, adapter, dequantize=True)
        assert not lazy.quantized and lazy.base_quantized
        assert "quantization_config" not in lazy.config
        write_weights(tmp_path, lazy, emit)
        assert_equal_weights(load_weights(tmp_path), reference_weights(four_bit_base, adapter, True))


def test_memory_is_bounded_by_the_shard_and_not_by_the_model(tmp_path: Path, emit: Emit) -> None:
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.models.llama import Model, ModelArgs

    base, out = tmp_path / "base", tmp_path / "out"
    base.mkdir()
    out.mkdir()
    config = CONFIG | {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 10, "head_dim": 64}
    (base / "config.json").write_text(json.dumps(config))
    weights = dict(tree_flatten(Model(ModelArgs.from_dict(config)).parameters()))
    mx.save_safetensors(str(base / "model.safetensors"), weights, metadata={"format": "mlx"})
    del weights
    adapter = write_adapter(base, tmp_path / "adapter")
    mx.clear_cache()

    held = mx.get_active_memory()
    mx.reset_peak_memory()
    lazy = fuse_lazily(base, adapter)
    size = lazy.bytes
    assert mx.get_active_memory() - held < size / 20, "describing the model reads next to nothing"
    write_weights(out, lazy, emit, shard_bytes=size // 10)
    assert mx.get_peak_memory() - held < size / 4


class TestQuantise:
    @pytest.mark.parametrize("bits", [4, 8])
    def test_weights_get_the_bits_and_the_config_says_so(self, float_base: Path, adapter: Path, bits: int) -> None:
        lazy = fuse_lazily(float_base, adapter, bits=bits, group_size=32)
        assert lazy.config["quantization"] == {"group_size": 32, "bits": bits, "mode": "affine"}
        assert lazy.weights["model.layers.0.mlp.down_proj.weight"].shape == (64, 96 * bits // 32)

    def test_a_quantised_base_is_requantised_from_floats(self, four_bit_base: Path, adapter: Path) -> None:
        lazy = fuse_lazily(four_bit_base, adapter, bits=8, group_size=32)
        assert lazy.config["quantization"]["bits"] == 8
        assert lazy.weights["model.layers.0.mlp.down_proj.weight"].shape == (64, 96 * 8 // 32)

    def test_a_group_size_that_does_not_divide_names_layer_width_and_way_out(
        self, float_base: Path, adapter: Path
    ) -> None:
        with pytest.raises(ParameterError, match=r"group_size=64 .*down_proj is 96 wide.*use group_size=32"):
            fuse_lazily(float_base, adapter, bits=4, group_size=64)


class TestErrors:
    def test_an_adapter_of_another_model(self, float_base: Path, tmp_path: Path) -> None:
        import mlx.core as mx

        folder = write_adapter(float_base, tmp_path / "a")
        mx.save_safetensors(
            str(folder / "adapters.safetensors"), {"model.layers.9.self_attn.q_proj.lora_a": mx.ones(3)}
        )
        with pytest.raises(StoreError, match="does not fit the base model"):
            fuse_lazily(float_base, folder)

    def test_a_base_that_wants_its_own_code_is_refused(self, float_base: Path, adapter: Path, tmp_path: Path) -> None:
        for path in float_base.iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(config | {"model_file": "modeling_evil.py"}))
        with pytest.raises(StoreError, match="cannot be opened"):
            fuse_lazily(tmp_path, adapter)

    @pytest.mark.parametrize("missing", ["adapters.safetensors", "adapter_config.json"])
    def test_a_folder_without_adapter(self, float_base: Path, tmp_path: Path, missing: str) -> None:
        folder = write_adapter(float_base, tmp_path / "a")
        (folder / missing).unlink()
        with pytest.raises(StoreError, match=missing):
            read_adapter_config(folder)

    @pytest.mark.parametrize("content", ["{", "[]"])
    def test_a_damaged_adapter_config(self, float_base: Path, tmp_path: Path, content: str) -> None:
        folder = write_adapter(float_base, tmp_path / "a")
        (folder / "adapter_config.json").write_text(content)
        with pytest.raises(StoreError, match=r"adapter_config\.json"):
            read_adapter_config(folder)


def test_plan_keeps_order_and_bound() -> None:
    assert plan_shards({"a": 4, "b": 4, "c": 20, "d": 1, "e": 9}, 10) == [["a", "b"], ["c"], ["d", "e"]]
    assert plan_shards({}, 10) == []
