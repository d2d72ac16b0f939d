from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.measuring import peak_bytes

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process begins with a count of its own")
def test_the_peak_is_that_of_the_process_and_not_of_its_parent() -> None:
    held = b"x" * 200_000_000
    command = [sys.executable, "-c", "from benchmarks.measuring import peak_bytes; print(peak_bytes())"]
    child = int(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    assert peak_bytes() > len(held) > 2 * child > 10_000_000
