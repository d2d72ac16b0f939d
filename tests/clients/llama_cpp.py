"""llama.cpp, prebuilt, by way of node-llama-cpp; ``make clients`` installs it into ``.clients``."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = ROOT / ".clients" / "node_modules"
CLIENT = MODULES / "node-llama-cpp" / "dist" / "index.js"

needed = pytest.mark.skipif(
    shutil.which("node") is None or not CLIENT.is_file(),
    reason="llama.cpp is not installed: `make clients` needs node, npm and a prebuilt package for this platform",
)


def open_gguf(path: Path, prompt: Sequence[int], count: int, texts: Sequence[str] = ()) -> dict[str, Any]:
    """Open a GGUF file; return its greedy continuation of a prompt, its tokens of texts, and what it declares."""
    question = {"model": str(path), "prompt": list(prompt), "count": count, "texts": list(texts)}
    command = ["node", str(Path(__file__).with_suffix(".mjs")), CLIENT.as_uri()]
    done = subprocess.run(command, input=json.dumps(question), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(done.stdout))


def install_quantiser(folder: Path) -> Path:
    """Write ``llama-quantize`` into a folder: the package lacks that program, but has the library that it calls."""
    folder.mkdir()
    program = folder / "llama-quantize"
    program.write_text(f"#!{sys.executable}\n" + Path(__file__).with_name("llama_quantize.py").read_text("utf-8"))
    program.chmod(0o755)
    return folder
