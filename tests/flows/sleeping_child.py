"""A child that a flow may have: it says who it is, sleeps, and saves when it is told to end."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from pydantic import BaseModel

from storage.events import Emit, serve_specification


class Order(BaseModel):
    folder: str
    seconds: float


class Slept(BaseModel):
    pass


def sleep(order: Order, emit: Emit) -> Slept:
    folder = Path(order.folder)

    def save(*_: object) -> None:
        (folder / "saved").touch()
        sys.exit(1)

    signal.signal(signal.SIGTERM, save)
    (folder / "pid").write_text(str(os.getpid()))
    deadline = time.monotonic() + order.seconds
    while time.monotonic() < deadline:
        time.sleep(0.05)
    return Slept()


if __name__ == "__main__":
    raise SystemExit(serve_specification(sleep, Order))
