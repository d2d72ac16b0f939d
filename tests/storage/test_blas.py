from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from storage import blas

ROOT = Path(__file__).resolve().parents[2]
SPEED = """
import sys, time
from storage import blas
print(blas.load())
import mlx.core as mx, numpy as np
a, b = (mx.random.normal((512, 512), key=mx.random.key(n)) for n in (1, 2))
error = float(np.abs(np.array(a @ b) - np.array(a) @ np.array(b)).max())
assert error < 1e-3, error
times = []
for _ in range(7):
    began = time.perf_counter()
    mx.eval(a @ b)
    times.append(time.perf_counter() - began)
print(min(times))
"""


def multiply(choice: str) -> tuple[bool, float]:
    answer = subprocess.run(
        [sys.executable, "-c", SPEED],
        cwd=ROOT,
        env={"DISTRUST_BLAS": choice},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded, seconds = answer.stdout.split()
    return loaded == "True", float(seconds)


@pytest.mark.skipif(sys.platform != "linux", reason="a Mac needs no other BLAS")
def test_mlx_multiplies_right_and_faster() -> None:
    assert blas.LIBRARY.exists(), "`make env` installs it"
    (fast, fast_seconds), (bundled, bundled_seconds) = multiply(""), multiply("bundled")
    assert fast and not bundled
    assert bundled_seconds / fast_seconds > 3
