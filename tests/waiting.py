"""Waiting for what must come; a machine with much else to do needs longer."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any


async def until(found: Callable[[], Any], seconds: float = 90.0) -> Any:
    """Wait for a value that is true, of a function or a coroutine function, and return it."""
    deadline = time.monotonic() + seconds
    while not (value := await answer if inspect.isawaitable(answer := found()) else answer):
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s"
        await asyncio.sleep(0.1)
    return value
