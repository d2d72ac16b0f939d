"""The base model on this machine: whole or refused, and its 4-bit copy."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm import convert
from mlx_lm.utils import load_model

from storage.errors import PrerequisiteError
from storage.model_folder import check_model_folder
from tasks.lora import base_model
from tasks.lora.base_model import public_name, resolve_base
from tests.tasks.lora.tiny_model import write_base

in_four_bits = partial(resolve_base, quantise=True)


@pytest.fixture
def wide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    return write_base(tmp_path / "wide", hidden_size=64, head_dim=16)


def test_local_folders(base: Path, tmp_path: Path) -> None:
    assert resolve_base(str(base)) == base.resolve()
    with pytest.raises(PrerequisiteError, match="does not exist; name an existing folder"):
        resolve_base(str(tmp_path / "nowhere"))
    with pytest.raises(PrerequisiteError, match=r"no config\.json"):
        resolve_base(str(tmp_path))
    (tmp_path / "config.json").write_text("{}", "utf-8")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(PrerequisiteError, match="only safetensors weights are read"):
        resolve_base(str(tmp_path))


def test_a_base_is_named_by_its_repository_or_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert public_name("llama-8b-abliterated") == "mlabonne/Meta-Llama-3.1-8B-Instruct-abliterated"
    assert public_name("some/other-model") == "some/other-model"
    (tmp_path / "models" / "llama").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert public_name("models/llama") == "llama", "a folder, and no repository of somebody called models"


def test_the_four_bit_copy_is_made_once_for_each_content(wide: Path) -> None:
    lines: list[str] = []
    first = in_four_bits(str(wide), log=lines.append)
    stamp = (first / "model.safetensors").stat().st_mtime_ns
    assert in_four_bits(str(wide), log=lines.append) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == stamp
    assert sum(line.startswith("Quantising") for line in lines) == 1
    assert json.loads((first / "config.json").read_text("utf-8"))["quantization"]["bits"] == 4
    assert type(load_model(first)[0].layers[0].self_attn.q_proj).__name__ == "QuantizedLinear"
    assert in_four_bits(str(first)) == first.resolve(), "a quantised base stays as it is"
    assert not list(first.parent.glob(".tmp-*"))

    weights = wide / "model.safetensors"  # replaced in place, under the same size and date
    before, content = weights.stat(), bytearray(weights.read_bytes())
    content[-1] ^= 1  # one value of the last tensor
    weights.write_bytes(content)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert in_four_bits(str(wide)) != first


def test_what_a_killed_quantisation_left_is_swept(wide: Path) -> None:
    copy = in_four_bits(str(wide))
    left, other = (copy.with_name(f".tmp-01234567-{name}") for name in (copy.name, "other-4bit-0"))
    copy.rename(left)
    other.mkdir()
    assert in_four_bits(str(wide)) == copy
    assert not left.exists() and other.exists(), "another copy may be in the making"


def test_a_copy_that_was_cut_off_is_named(wide: Path) -> None:
    (file,) = in_four_bits(str(wide)).glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(PrerequisiteError, match=r"its header describes .*: it was cut off or altered"):
        in_four_bits(str(wide))


def weights_of(folder: Path) -> dict[str, Any]:
    return {name: tensor for file in folder.glob("model*.safetensors") for name, tensor in mx.load(str(file)).items()}


def test_it_equals_the_librarys_and_its_memory_does_not_grow_with_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_model, "SHARD_BYTES", 1 << 20)
    peaks = []
    for layers in (3, 9):
        large = {"hidden_size": 256, "head_dim": 64, "intermediate_size": 768, "torch_dtype": "bfloat16"}
        base = write_base(tmp_path / f"base{layers}", num_hidden_layers=layers, **large)
        ours = tmp_path / f"ours{layers}"
        ours.mkdir()
        mx.clear_cache()
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        base_model.write_quantised(base, ours)
        peaks.append(mx.get_peak_memory() - before)
    assert len(list(ours.glob("*.safetensors"))) > 3
    assert peaks[1] < 1.2 * peaks[0], peaks
    assert check_model_folder(ours)
    convert(str(base), mlx_path=str(tmp_path / "theirs"), quantize=True, q_bits=4, q_group_size=64)
    expected, found = weights_of(tmp_path / "theirs"), weights_of(ours)
    assert expected.keys() == found.keys()
    assert all(bool(mx.array_equal(expected[name], found[name])) for name in expected)
    config, library = (
        json.loads((folder / "config.json").read_text("utf-8")) for folder in (ours, tmp_path / "theirs")
    )
    assert config["quantization"] == library["quantization"]
