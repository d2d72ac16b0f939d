"""What a run was computed on: bit-equal continuation holds on the same device and libraries only."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path

BLAS_MARKS = ("openblas", "libmkl", "libblis", "libblas", "accelerate")


def linear_algebra_library() -> str:
    """Name the BLAS library that this process has loaded."""
    if platform.system() == "Darwin":
        return "Accelerate"
    maps = Path("/proc/self/maps")
    loaded = maps.read_text("utf-8").splitlines() if maps.exists() else []
    names = {Path(line.split()[-1]).name for line in loaded if "/" in line}
    # The library that NumPy and SciPy bring along is theirs alone.
    found = sorted(name for name in names if "scipy" not in name and any(mark in name for mark in BLAS_MARKS))
    return ", ".join(found) or "bundled"


def describe_device() -> dict[str, str]:
    """Describe the device and the libraries that decide the rounding of a run."""
    import mlx.core as mx

    return {
        "device": str(mx.default_device()),
        "accelerator": str(mx.device_info().get("device_name", "")),
        "system": f"{platform.system()} {platform.machine()}",
        "blas": linear_algebra_library(),
        "mlx": version("mlx"),
        "mlx_lm": version("mlx-lm"),
    }
