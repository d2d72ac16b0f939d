"""A base model of the Hub: fetched once, resumed, verified; from a Hub on loopback, in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from storage.errors import PrerequisiteError
from tasks.lora.fetch import MOST_BYTES, MOST_PAPER_BYTES, _check_sizes, is_wanted, verify
from tests.tasks.lora.hub_of_one_model import OneModel, serve
from tests.tasks.lora.tiny_model import write_base

PIECE = 10 << 20
"""What the Hub's client writes to disk at a time."""

FETCH = """
import sys
from storage.errors import PrerequisiteError
from tasks.lora.base_model import resolve_base
try:
    print("FOLDER", resolve_base("tiny/model", quantise={"4bit": None, "asis": False}[sys.argv[1]]))
except PrerequisiteError as error:
    print("ERROR", error)
"""


def fetch(address: str, home: Path, how: str = "asis") -> list[str]:
    environment = os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}
    environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    command = [sys.executable, "-c", FETCH, how]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
    return done.stdout.splitlines()


@pytest.fixture
def hub(tmp_path: Path) -> OneModel:
    folder = write_base(tmp_path / "origin", hidden_size=64, head_dim=16, vocab_size=60_000)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n", "utf-8")
    (folder / "LICENSE.txt").write_text("the licence", "utf-8")
    (folder / "NOTICE").write_bytes(b"n" * (MOST_PAPER_BYTES + 1))
    (folder / "LICENSE.py").write_text("raise SystemExit('a licence was run')", "utf-8")
    (folder / "modeling_tiny.py").write_text("raise SystemExit('code of a repository was run')", "utf-8")
    (folder / "pytorch_model.bin").write_bytes(b"pickled")
    (folder / "consolidated.safetensors").write_bytes(b"twice the same")
    (folder / "original").mkdir()
    (folder / "original" / "model.safetensors").write_bytes(b"another copy")
    return OneModel(folder)


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
        assert {name for name, _ in hub.asked} == {
            "config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
            "README.md",
            "LICENSE.txt",
        }
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
        assert answer.startswith("ERROR") and "was damaged on its way and is deleted; run again" in answer
        hub.files["model.safetensors"] = sound
        folder = Path(fetch(address, tmp_path / "home")[-1].removeprefix("FOLDER "))
    assert (folder / "model.safetensors").read_bytes() == sound


def test_only_safetensors_at_the_top_are_wanted() -> None:
    names = ["model.safetensors", "config.json", "chat_template.jinja", "tokenizer.model", "merges.txt"]
    assert all(map(is_wanted, names))
    assert all(map(is_wanted, ["README.md", "LICENSE", "LICENCE.txt", "NOTICE", "USE_POLICY.md"]))
    refused = [
        "LICENSE.py",
        "docs/LICENSE",
        "pytorch_model.bin",
        "x.py",
        "original/model.safetensors",
        "../model.safetensors",
        "a.gguf",
        "a.pkl",
    ]
    assert not any(map(is_wanted, [*refused, "consolidated.safetensors"]))


@pytest.mark.parametrize(
    ("sizes", "named"),
    [
        ({"config.json": 10}, "holds no safetensors weights, and only these are read"),
        ({"model.safetensors": MOST_BYTES + 1}, "has 400 GB, more than the 400 GB that are fetched at most"),
    ],
)
def test_what_a_repository_must_not_be(sizes: dict[str, int], named: str) -> None:
    with pytest.raises(PrerequisiteError, match=named):
        _check_sizes("some/model", sizes)


def test_a_model_that_does_not_fit_on_the_disk_is_not_begun(hub: OneModel, tmp_path: Path) -> None:
    hub.sizes["model.safetensors"] = 399 * 10**9
    with serve(hub) as address:
        answer = fetch(address, tmp_path / "home")[-1]
    assert "needs 399.0 GB and" in answer and "make room, or set HF_HOME to a larger disk" in answer
    assert hub.asked == []


def test_verification_is_done_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    digests: dict[str, Any] = {"a": "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"}
    lines: list[str] = []
    for _ in range(2):
        verify(tmp_path, digests, tmp_path / "receipt.json", lines.append)
    assert len(lines) == 1
