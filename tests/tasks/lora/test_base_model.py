from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm import convert
from mlx_lm.utils import load_model

from storage.errors import PrerequisiteError
from storage.lock import only_writer
from storage.model_folder import check_model_folder
from tasks.lora import quantise
from tasks.lora.base_model import architecture_of_base, public_name, resolve_base
from tests.tasks.lora.tiny_model import write_base


class Hub(BaseHTTPRequestHandler):
    """Answers as the Hub does for a gated, a missing and a broken-off repository."""

    def do_GET(self) -> None:
        if "/broken/" in self.path:
            self.close_connection = True
            return
        gated = "/gated/" in self.path
        self.send_response(403 if gated else 404)
        self.send_header("X-Error-Code", "GatedRepo" if gated else "RepoNotFound")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


COMPLAIN = """
import sys
from huggingface_hub import constants
from storage.errors import PrerequisiteError
from tasks.lora.base_model import resolve_base
for request in sys.argv[1:]:
    constants.ENDPOINT, model = request.split("|")
    try:
        resolve_base(model, log=lambda line: None)
    except PrerequisiteError as error:
        print(error)
"""


def test_what_cannot_be_fetched_is_explained(hub: str, tmp_path: Path) -> None:
    requests = [f"{hub}|gated/model", f"{hub}|no/such-model", f"{hub}|not a name", f"{hub}|broken/model"]
    requests.append("http://127.0.0.1:9|llama-8b-abliterated")
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-c", COMPLAIN, *requests]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=90)
    gated, missing, unnamed, broken, unreachable = done.stdout.splitlines()
    assert gated.startswith("base model gated/model is gated: accept its licence at https://huggingface.co/gated/model")
    assert "no/such-model does not exist or is private" in missing
    assert "not a name does not exist" in unnamed
    assert "broken/model could not be fetched" in broken
    assert unreachable.startswith(
        "base model mlabonne/Meta-Llama-3.1-8B-Instruct-abliterated is not in the local cache"
    )


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


def test_the_four_bit_copy_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    wide = write_base(tmp_path / "wide", hidden_size=64, head_dim=16)
    lines: list[str] = []
    first = resolve_base(str(wide), quantise=True, log=lines.append)
    stamp = (first / "model.safetensors").stat().st_mtime_ns
    assert resolve_base(str(wide), quantise=True, log=lines.append) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == stamp
    assert sum(line.startswith("Quantising") for line in lines) == 1
    assert json.loads((first / "config.json").read_text("utf-8"))["quantization"]["bits"] == 4
    model, _ = load_model(first)
    assert type(model.layers[0].self_attn.q_proj).__name__ == "QuantizedLinear"
    assert resolve_base(str(first), quantise=True) == first.resolve(), "a quantised base stays as it is"
    assert not list(first.parent.glob(".tmp-*"))


def test_weights_replaced_in_place_get_a_copy_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    wide = write_base(tmp_path / "wide", hidden_size=64, head_dim=16)
    first = resolve_base(str(wide), quantise=True, log=lambda line: None)
    weights = wide / "model.safetensors"
    before = weights.stat()
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1  # one value of the last tensor
    weights.write_bytes(content)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert resolve_base(str(wide), quantise=True, log=lambda line: None) != first


def test_what_a_killed_quantisation_left_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    wide = write_base(tmp_path / "wide", hidden_size=64, head_dim=16)
    copy = resolve_base(str(wide), quantise=True, log=lambda line: None)
    left, other = (copy.with_name(f".tmp-01234567-{name}") for name in (copy.name, "other-4bit-0"))
    copy.rename(left)
    other.mkdir()
    assert resolve_base(str(wide), quantise=True, log=lambda line: None) == copy
    assert not left.exists() and other.exists(), "another copy may be in the making"


def test_a_copy_that_another_process_makes_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    wide = write_base(tmp_path / "wide", hidden_size=64, head_dim=16)
    copy = resolve_base(str(wide), quantise=True, log=lambda line: None)
    aside = copy.rename(tmp_path / "aside")
    release = threading.Event()
    held = threading.Event()

    def make() -> None:
        with only_writer(copy):
            held.set()
            release.wait(60)
            aside.rename(copy)

    maker = threading.Thread(target=make)
    maker.start()
    held.wait(60)
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        if line.startswith("Another process makes"):
            release.set()

    assert resolve_base(str(wide), quantise=True, log=say) == copy
    maker.join()
    assert release.is_set() and not any(line.startswith("Quantising") for line in lines)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
@pytest.mark.parametrize("text", ['{"hidden_size": 3', "[]", "\udcff", '{"weight_map": 3, "text_config": 3}'])
def test_damaged_json_of_a_model_is_named(name: str, text: str, tmp_path: Path) -> None:
    folder = write_base(tmp_path / "base")
    (folder / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    if name == "config.json" and "weight_map" in text:
        assert architecture_of_base(str(folder)) is None
        return
    for read in (resolve_base, architecture_of_base):
        with pytest.raises(PrerequisiteError, match=rf"{name} .*; fetch or copy the model again"):
            read(str(folder))


def test_a_base_is_named_by_its_repository_or_its_folder(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert public_name("llama-8b-abliterated") == "mlabonne/Meta-Llama-3.1-8B-Instruct-abliterated"
    assert public_name("some/other-model") == "some/other-model"
    (tmp_path / "models" / "llama").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert public_name("models/llama") == "llama", "a folder, and no repository of somebody called models"


def weights_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for file in folder.glob("model*.safetensors"):
        found |= mx.load(str(file))
    return found


def test_it_equals_the_librarys_and_its_memory_does_not_grow_with_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
        expected, found = weights_of(theirs), weights_of(ours)
        assert expected.keys() == found.keys()
        assert all(bool(mx.array_equal(expected[name], found[name])) for name in expected)
        config, library = (json.loads((folder / "config.json").read_text("utf-8")) for folder in (ours, theirs))
        assert config["quantization"] == library["quantization"]
    assert len(list((tmp_path / "ours16").glob("*.safetensors"))) > 4
    assert peaks[1] < 1.2 * peaks[0], peaks
    assert check_model_folder(tmp_path / "ours16")


def test_damage_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(quantise, "SHARD_BYTES", 1 << 14)
    base = write_base(tmp_path / "base", hidden_size=64, head_dim=16)
    copy = resolve_base(str(base), quantise=True, log=lambda line: None)
    first, second, *_ = sorted(copy.glob("*.safetensors"))
    content = first.read_bytes()
    first.write_bytes(content[:-1])
    with pytest.raises(PrerequisiteError, match=r"its header describes .*: it was cut off or altered"):
        resolve_base(str(base), quantise=True)
    first.write_bytes(b"\xff" * 100)
    with pytest.raises(PrerequisiteError, match="is not a whole safetensors file"):
        resolve_base(str(base), quantise=True)
    first.write_bytes((2).to_bytes(8, "little") + b"[]")
    with pytest.raises(PrerequisiteError, match="is not a safetensors file"):
        resolve_base(str(base), quantise=True)
    first.write_bytes(content)
    second.unlink()
    with pytest.raises(PrerequisiteError, match="a weight file is missing"):
        resolve_base(str(base), quantise=True)
