"""The most memory that a process held, in bytes on every system."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024
"""Bytes that one unit of `ru_maxrss` stands for."""


def peak_bytes() -> int:
    """Return the most memory that this process held; `ru_maxrss` of Linux begins at that of its parent."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_BYTES
    return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))


def children_peak_bytes() -> int:
    """Return the most memory that any one ended child held; on Linux at least what this process held at its start."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * MAXRSS_BYTES
