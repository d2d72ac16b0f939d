"""A child process that doubles a number, or fails as it is told; it starts without Prefect and pytest."""

from __future__ import annotations

import sys

from pydantic import BaseModel

from storage.errors import MixtureError
from storage.events import Emit, ProgressEvent, serve_specification


class Order(BaseModel):
    number: int
    fault: str = ""


class Outcome(BaseModel):
    doubled: int


def work(order: Order, emit: Emit) -> Outcome:
    print("a plain line")
    emit(ProgressEvent(stage="count", done=1, total=2))
    emit("measured", loss=0.5)
    if order.fault == "error":
        raise MixtureError("there are no documents")
    if order.fault:
        sys.exit(3)
    return Outcome(doubled=2 * order.number)


if __name__ == "__main__":
    raise SystemExit(serve_specification(work, Order))
