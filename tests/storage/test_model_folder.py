from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from storage.errors import PrerequisiteError, StoreError
from storage.model_folder import check_model_folder, largest_token, loading, read_adapter, read_header
from storage.untrusted import read_bounded, read_object

BASE = Path(__file__).resolve().parents[2] / "sandbox" / "base_model"
ROWS = json.loads((BASE / "config.json").read_text())["vocab_size"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BASE, tmp_path / "model"))


def configure(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text()) | changes
        (folder / "config.json").write_text(json.dumps(config))

    return change


def replace(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return change


def header(content: bytes, length: int | None = None) -> Callable[[Path], None]:
    claimed = len(content) if length is None else length
    return replace("model.safetensors", lambda file: file.write_bytes(struct.pack("<Q", claimed) + content))


def tensor(**fields: Any) -> bytes:
    return json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} | fields}).encode()


def add_token(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append(tokenizer["added_tokens"][0] | {"id": ROWS, "content": "<one-too-many>"})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


DEEP = b"[" * 100_000
NO_FILES: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "dangling": lambda path: path.symlink_to("nowhere"),
}
HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "layers": (configure(num_hidden_layers=10**9), "num_hidden_layers 1000000000"),
    "negative": (configure(hidden_size=-8), "hidden_size"),
    "text": (configure(num_attention_heads="four"), "num_attention_heads"),
    "fraction": (configure(num_hidden_layers=1.5), "num_hidden_layers"),
    "nested": (configure(text_config={"num_hidden_layers": 10**9}), "num_hidden_layers"),
    "nan": (configure(rms_norm_eps=float("nan")), "NaN is not a number"),
    "list": (replace("config.json", lambda file: file.write_text("[]")), "JSON object"),
    "deep config": (replace("config.json", lambda file: file.write_bytes(DEEP)), "nests deeper"),
    "deep tokenizer": (replace("tokenizer.json", lambda file: file.write_bytes(DEEP)), "nests deeper"),
    "huge config": (replace("config.json", lambda file: file.write_bytes(b" " * (17 << 20))), "longer than"),
    "deep header": (header(DEEP), "nests deeper"),
    "endless header": (header(b"{}", 2**60), "not a complete safetensors"),
    "offsets": (header(tensor(data_offsets=["a", "b"])), "not a tensor"),
    "three offsets": (header(tensor(data_offsets=[1, 2, 3])), "not a safetensors file"),
    "negative shape": (header(tensor(shape=[-1])), "not a tensor"),
    "not text": (header(b"\xff\xfe"), "not a safetensors file"),
    "cut": (lambda folder: os.truncate(folder / "model.safetensors", 100_000), "cut off|not a whole"),
    "token": (add_token, f"id {ROWS}, but the model knows {ROWS}"),
}
HOSTILE |= {
    f"{name} {kind}": (replace(name, make), name)
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    for kind, make in NO_FILES.items()
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_model_is_refused_in_a_sentence(model: Path, name: str) -> None:
    change, said = HOSTILE[name]
    change(model)
    with pytest.raises(PrerequisiteError, match=said) as refused:
        check_model_folder(model)
    assert len(str(refused.value)) < 700 and "\n" not in str(refused.value)


def test_a_whole_model_is_let_through(model: Path) -> None:
    assert read_header(model / "model.safetensors") == check_model_folder(model)
    assert largest_token(model) == ROWS - 1


def test_a_model_of_a_hub_cache_is_made_of_links(model: Path, tmp_path: Path) -> None:
    (tmp_path / "snapshot").mkdir()
    for file in model.iterdir():
        (tmp_path / "snapshot" / file.name).symlink_to(file)
    check_model_folder(tmp_path / "snapshot")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", NO_FILES)
@pytest.mark.parametrize("name", ["adapters.safetensors", "adapter_config.json"])
def test_an_adapter_that_is_no_file_is_refused(tmp_path: Path, name: str, kind: str) -> None:
    shutil.copy(BASE / "model.safetensors", tmp_path / "adapters.safetensors")
    (tmp_path / "adapter_config.json").write_text('{"num_layers": 2, "lora_parameters": {"rank": 8}}')
    assert read_adapter(tmp_path)["num_layers"] == 2
    replace(name, NO_FILES[kind])(tmp_path)
    with pytest.raises(StoreError, match=name):
        read_adapter(tmp_path)


@pytest.mark.parametrize("rank", [10**9, "8", -2, 1.5])
def test_an_adapter_of_an_absurd_size_is_refused(tmp_path: Path, rank: Any) -> None:
    shutil.copy(BASE / "model.safetensors", tmp_path / "adapters.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"num_layers": 2, "lora_parameters": {"rank": rank}}))
    with pytest.raises(StoreError, match="rank"):
        read_adapter(tmp_path)


def test_even_a_panic_becomes_a_sentence(tmp_path: Path) -> None:
    class PanicException(BaseException):
        pass

    with pytest.raises(PrerequisiteError, match="PanicException: no such vocabulary"), loading(tmp_path):
        raise PanicException("no such vocabulary")
    with pytest.raises(SystemExit), loading(tmp_path):
        raise SystemExit(1)


def test_what_is_read_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": NaN}')
    assert read_object(tmp_path / "a.json")["a"] != 0
    with pytest.raises(ValueError, match="not a number"):
        read_object(tmp_path / "a.json", finite=True)
    with pytest.raises(ValueError, match="longer than"):
        read_bounded(tmp_path / "a.json", 3)
    with pytest.raises(FileNotFoundError):
        read_bounded(tmp_path / "b.json")
