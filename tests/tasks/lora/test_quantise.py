from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from storage.errors import PrerequisiteError
from tasks.lora import quantise
from tasks.lora.base_model import checked_folder, resolve_base
from tests.tasks.lora.tiny_model import write_base


def tensors(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for file in folder.glob("model*.safetensors"):
        found |= mx.load(str(file))
    return found


def test_it_equals_the_librarys_and_its_memory_does_not_grow_with_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlx_lm import convert

    monkeypatch.setattr(quantise, "SHARD_BYTES", 1 << 20)
    peaks = []
    for layers in (4, 16):
        wide = {"hidden_size": 256, "head_dim": 64, "intermediate_size": 768, "torch_dtype": "bfloat16"}
        base = write_base(tmp_path / f"base{layers}", num_hidden_layers=layers, **wide)
        ours, theirs = tmp_path / f"ours{layers}", tmp_path / f"theirs{layers}"
        ours.mkdir()
        mx.clear_cache()
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        quantise.write_quantised(base, ours)
        peaks.append(mx.get_peak_memory() - before)
        convert(str(base), mlx_path=str(theirs), quantize=True, q_bits=4, q_group_size=64)
        expected, found = tensors(theirs), tensors(ours)
        assert expected.keys() == found.keys()
        assert all(bool(mx.array_equal(expected[name], found[name])) for name in expected)
        config, library = (json.loads((folder / "config.json").read_text("utf-8")) for folder in (ours, theirs))
        assert config["quantization"] == library["quantization"]
    assert len(list((tmp_path / "ours16").glob("*.safetensors"))) > 4
    assert peaks[1] < 1.2 * peaks[0], peaks
    assert checked_folder(tmp_path / "ours16")


def test_damage_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(quantise, "SHARD_BYTES", 1 << 14)
    base = write_base(tmp_path / "base", hidden_size=64, head_dim=16)
    copy = resolve_base(str(base), quantise=True, log=lambda line: None)
    first, second, *_ = sorted(copy.glob("*.safetensors"))
    content = first.read_bytes()
    first.write_bytes(content[:-1])
    with pytest.raises(PrerequisiteError, match=r"its header tells of .*: it was cut off or altered"):
        resolve_base(str(base), quantise=True)
    first.write_bytes(b"\xff" * 100)
    with pytest.raises(PrerequisiteError, match="is no whole safetensors file"):
        resolve_base(str(base), quantise=True)
    first.write_bytes((2).to_bytes(8, "little") + b"[]")
    with pytest.raises(PrerequisiteError, match="is no safetensors file"):
        resolve_base(str(base), quantise=True)
    first.write_bytes(content)
    second.unlink()
    with pytest.raises(PrerequisiteError, match="a weight file is missing"):
        resolve_base(str(base), quantise=True)
