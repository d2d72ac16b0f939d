"""The process that trains: its device, its part of the memory, and how it is kept awake and asked to stop."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import FrameType

from tasks.lora.memory import usable_bytes

CACHE_SHARE = 0.1
"""Freed buffers that MLX keeps for reuse; batches of many widths would otherwise hoard one of each size."""
BLAS_MARKS = ("openblas", "libmkl", "libblis", "libblas", "accelerate")


def linear_algebra_library() -> str:
    """Name the BLAS library that this process has loaded."""
    if platform.system() == "Darwin":
        return "Accelerate"
    maps = Path("/proc/self/maps")
    loaded = maps.read_text("utf-8").splitlines() if maps.exists() else []
    names = {Path(line.split()[-1]).name for line in loaded if "/" in line}
    # The library that NumPy and SciPy bring along serves nothing else.
    found = sorted(name for name in names if "scipy" not in name and any(mark in name for mark in BLAS_MARKS))
    return ", ".join(found) or "bundled"


def describe_device() -> dict[str, str]:
    """Describe the device and the libraries that decide how a run rounds."""
    import mlx.core as mx

    return {
        "device": str(mx.default_device()),
        "accelerator": str(mx.device_info().get("device_name", "")),
        "system": f"{platform.system()} {platform.machine()}",
        "blas": linear_algebra_library(),
        "mlx": version("mlx"),
        "mlx_lm": version("mlx-lm"),
    }


def training_limit_bytes() -> float:
    """Return what training may take: a part of the memory, and on a GPU no more than that offers.

    Metal recommends a bound; of a card with memory of its own, the same part may be used as of the machine's.
    """
    import mlx.core as mx

    device = mx.device_info()
    if recommended := device.get("max_recommended_working_set_size"):
        return min(usable_bytes(), float(recommended))
    if own := device.get("total_memory"):
        return min(usable_bytes(), usable_bytes(float(own) / 1e9))
    return usable_bytes()


def limit_memory() -> None:
    """Keep the model's memory wired and the cache of freed buffers small, so that the system keeps its own.

    Above its memory limit MLX waits for work under way before it begins more, and so holds fewer buffers at once.
    """
    import mlx.core as mx
    from mlx_lm.utils import maybe_set_recommended_wired_limit

    maybe_set_recommended_wired_limit()
    limit = int(training_limit_bytes())
    mx.set_memory_limit(limit)
    mx.set_cache_limit(int(CACHE_SHARE * limit))


@contextmanager
def awake() -> Iterator[None]:
    """Keep a Mac from sleeping in this block; the program that does it ends with this process, however it ends."""
    program = shutil.which("caffeinate")
    if program is None:
        yield
        return
    keeper = subprocess.Popen([program, "-i", "-m", "-s", "-w", str(os.getpid())], stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        keeper.terminate()
        keeper.wait()


class StopAsked(Exception):
    """The process was asked to stop, and saved its work so that it can be resumed."""


@dataclass
class StopRequest:
    """What the process was asked, by which signal if at all."""

    signal: int | None = None

    @property
    def exit_status(self) -> int:
        """The status that a shell expects of a process ended by this signal; by SIGTERM if another one was asked."""
        return 128 + (self.signal or signal.SIGTERM)


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Note SIGTERM and the first SIGINT instead of obeying them, so that the loop can save and leave.

    Several SIGTERMs ask for one stop: a service that is ended signals each of its processes, and a flow that is ended
    by it signals its trainer once more. Only a second Ctrl-C, which a person sends, ends the process at once, as
    SIGKILL does. Outside the main thread, where Python allows no signal handlers, nothing is noted.
    """
    request = StopRequest()
    previous: dict[int, signal._HANDLER] = {}

    def note(number: int, frame: FrameType | None) -> None:
        request.signal = number
        if number == signal.SIGINT:
            signal.signal(number, previous[number])

    if threading.current_thread() is threading.main_thread():
        previous |= {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
