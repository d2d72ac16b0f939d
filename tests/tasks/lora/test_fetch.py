"""A base model of the Hub: fetched once, resumed, verified; from a Hub on loopback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from huggingface_hub import constants

from storage.errors import DistrustError
from tasks.lora.base_model import resolve_base
from tasks.lora.fetch import MOST_PAPER_BYTES, is_wanted
from tests.tasks.lora.hub_of_one_model import OneModel, serve
from tests.tasks.lora.tiny_model import write_base

PIECE = 10 << 20
"""What the Hub's client writes to disk at a time."""


def fetch(address: str, home: Path, how: str = "asis", *models: str) -> list[str]:
    """Resolve base models from a Hub; return what is logged, and for each model its folder or the error."""
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patched:  # the library reads these when it is imported
        patched.setattr(constants, "ENDPOINT", address)
        patched.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
        patched.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        patched.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patched.setattr(constants, "HF_HUB_OFFLINE", False)
        patched.setenv("HF_HOME", str(home))
        patched.setenv("HF_ENDPOINT", address)
        for model in models or ("tiny/model",):
            try:
                folder = resolve_base(model, quantise={"4bit": None, "asis": False}[how], log=lines.append)
                lines.append(f"FOLDER {folder}")
            except DistrustError as error:
                lines.append(f"ERROR {error}")
    return lines


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_base(tmp_path_factory.mktemp("hub") / "origin", hidden_size=64, head_dim=16, vocab_size=60_000)
    for name, content in {
        "README.md": b"---\nlicense: mit\n---\n",
        "LICENSE.txt": b"the licence",
        "NOTICE": b"n" * (MOST_PAPER_BYTES + 1),
        "LICENSE.py": b"raise SystemExit('a licence was run')",
        "modeling_tiny.py": b"raise SystemExit('code of a repository was run')",
        "pytorch_model.bin": b"pickled",
        "consolidated.safetensors": b"twice the same",
        "original/model.safetensors": b"another copy",
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def hub(origin: Path) -> OneModel:
    return OneModel(origin)


def test_a_model_is_fetched_once_resumed_verified_and_quantised(hub: OneModel, tmp_path: Path) -> None:
    home = tmp_path / "home"
    hub.break_off_after = PIECE + 500_000
    with serve(hub) as address:
        lines = fetch(address, home, "4bit")
        quantised = Path(lines[-1].removeprefix("FOLDER "))
        weights = [asked for asked in hub.asked if asked[0] == "model.safetensors"]
        assert weights == [("model.safetensors", ""), ("model.safetensors", f"bytes={PIECE}-")], (
            "it goes on at the byte"
        )
        assert sorted({name for name, _ in hub.asked}) == [
            *("LICENSE.txt", "README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
        ], "no code, no other format, no second copy"
        assert (quantised / "README.md").read_text("utf-8").startswith("---\nlicense: mit")
        assert (quantised / "LICENSE.txt").read_text("utf-8") == "the licence"
        assert any(line.startswith("Verifying 1 files, once") for line in lines)
        assert json.loads((quantised / "config.json").read_text("utf-8"))["quantization"]["bits"] == 4

        asked, stamp = len(hub.asked), (quantised / "model.safetensors").stat().st_mtime_ns
        again = fetch(address, home, "4bit")
        assert again[-1] == lines[-1] and not any("Verifying" in line or "Quantising" in line for line in again)
        assert len(hub.asked) == asked and (quantised / "model.safetensors").stat().st_mtime_ns == stamp
    offline = fetch("http://127.0.0.1:9", home)
    assert "The Hub does not answer; taking tiny/model from the local cache" in offline
    assert offline[-1].startswith("FOLDER ")


def test_altered_bytes_are_found_and_fetched_again(hub: OneModel, tmp_path: Path) -> None:
    sound = hub.files["model.safetensors"]
    hub.files["model.safetensors"] = sound[:-1] + bytes([sound[-1] ^ 1])
    with serve(hub) as address:
        answer = fetch(address, tmp_path / "home")[-1]
        assert answer.startswith("ERROR") and "was damaged in transit and has been deleted; run again" in answer
        hub.files["model.safetensors"] = sound
        folder = Path(fetch(address, tmp_path / "home")[-1].removeprefix("FOLDER "))
    assert (folder / "model.safetensors").read_bytes() == sound


def test_what_cannot_be_fetched_is_explained(hub: OneModel, tmp_path: Path) -> None:
    del hub.files["model.safetensors"]
    with serve(hub) as address:
        assert "holds no safetensors weights, and only these are read" in fetch(address, tmp_path)[-1]
        hub.files["model.safetensors"] = b""
        hub.sizes["model.safetensors"] = 401 * 10**9
        assert "has 401 GB, more than the 400 GB that are fetched at most" in fetch(address, tmp_path)[-1]
    hub.sizes["model.safetensors"] = 399 * 10**9
    wrong = ("gated/model", "no/such-model", "not a name", "broken/model", "tiny/model")
    with serve(hub) as address:
        gated, missing, unnamed, broken, large = fetch(address, tmp_path, "asis", *wrong)
    assert (
        "gated/model is gated: sign in, accept its terms on https://huggingface.co/gated/model, and set HF_TOKEN"
        in gated
    )
    assert "no/such-model does not exist or is private" in missing
    assert "not a name does not exist" in unnamed
    assert "broken/model could not be read" in broken
    assert "needs 399.0 GB and" in large and "make room, or set HF_HOME to a larger disk" in large
    assert hub.asked == [], "what does not fit on the disk is not begun"
    (unreachable,) = fetch("http://127.0.0.1:9", tmp_path, "asis", "llama-8b-abliterated")
    assert "Meta-Llama-3.1-8B-Instruct-abliterated: the Hub cannot be reached" in unreachable


def test_only_safetensors_at_the_top_are_wanted() -> None:
    names = ["model.safetensors", "config.json", "chat_template.jinja", "tokenizer.model", "merges.txt"]
    assert all(map(is_wanted, [*names, "README.md", "LICENSE", "LICENCE.txt", "NOTICE", "USE_POLICY.md"]))
    refused = ["LICENSE.py", "docs/LICENSE", "pytorch_model.bin", "x.py", "original/model.safetensors", "a.gguf"]
    assert not any(map(is_wanted, [*refused, "../model.safetensors", "a.pkl", "consolidated.safetensors"]))
