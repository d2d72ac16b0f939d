"""llama.cpp, prebuilt, by way of node-llama-cpp; ``make clients`` installs it into ``.clients``."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = ROOT / ".clients" / "node_modules"
CLIENT = MODULES / "node-llama-cpp" / "dist" / "index.js"


class LlamaCpp:
    """A running llama.cpp."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def open_gguf(self, path: Path, prompt: Sequence[int], count: int, texts: Sequence[str] = ()) -> dict[str, Any]:
        """Open a GGUF file; return its greedy continuation of a prompt, its tokens of texts, and what it declares."""
        return self._ask({"model": str(path), "prompt": list(prompt), "count": count, "texts": list(texts)})

    def weigh(self, path: Path, prompts: Sequence[Sequence[int]], candidates: Sequence[int]) -> list[list[float]]:
        """Return the log-probability of each candidate token after each prompt."""
        question = {"model": str(path), "prompts": [list(prompt) for prompt in prompts], "candidates": list(candidates)}
        return list(self._ask(question)["found"])

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        found = dict(json.loads(self.process.stdout.readline()))
        assert "error" not in found, found["error"]
        return found


@contextmanager
def running() -> Iterator[LlamaCpp]:
    """Start llama.cpp, or skip the test that wants it."""
    if shutil.which("node") is None or not CLIENT.is_file():
        pytest.skip(
            "llama.cpp is not installed: `make clients` needs node, npm and a prebuilt package for this platform"
        )
    command = ["node", str(Path(__file__).with_suffix(".mjs")), CLIENT.as_uri()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield LlamaCpp(process)


def install_quantiser(folder: Path) -> Path:
    """Write ``llama-quantize`` into a folder: the package lacks that program, but has the library that it calls."""
    folder.mkdir()
    program = folder / "llama-quantize"
    program.write_text(f"#!{sys.executable}\n" + Path(__file__).with_name("llama_quantize.py").read_text("utf-8"))
    program.chmod(0o755)
    return folder
