"""A flow at work on a store: what it reads is fetched, what it writes is uploaded, with the recipe that repeats it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from prefect.context import FlowRunContext

from flows.parameters import FlowParameters
from flows.recipes import MOST_BYTES, write_out
from storage.atomic import write_text
from storage.errors import DatasetBusy
from storage.layout import Layout
from storage.lock import in_turn
from storage.untrusted import read_bounded
from tasks.policies import run_logger

CANCELLED_PATIENCE_SECONDS = 10.0
"""How long a cancelled run waits for its turn; Prefect kills it after 30 seconds, transfers included."""


@asynccontextmanager
async def recorded(
    parameters: FlowParameters, layout: Layout, reads: Sequence[str], writes: Sequence[str]
) -> AsyncIterator[None]:
    """Fetch what a flow reads; once it is done, write its recipe into the folders of its results; upload what it wrote.

    Runs of one machine share the mirror of a bucket and move files one after another: each waits for its turn. What a
    flow writes is fetched first as well, since it goes on where another machine stopped; it is uploaded also when the
    flow fails. A store in a folder needs neither.

    Raises:
        StoreError: The bucket cannot be reached.
    """
    await _move(layout.pull, [*reads, *writes])
    patience_seconds = math.inf
    try:
        yield
        _write_recipe(parameters, layout, writes)
    except asyncio.CancelledError:
        patience_seconds = CANCELLED_PATIENCE_SECONDS
        raise
    finally:
        try:
            await _move(layout.push, writes, patience_seconds)
        except DatasetBusy:
            run_logger().warning("cancelled while another run moves files: the bucket gets %s later", ", ".join(writes))


async def _move(transfer: Callable[..., None], below: Sequence[str], patience_seconds: float = math.inf) -> None:
    await in_turn(partial(asyncio.to_thread, transfer, *below), run_logger().warning, patience_seconds)


def _write_recipe(parameters: FlowParameters, layout: Layout, writes: Sequence[str]) -> None:
    context = FlowRunContext.get()
    if context is not None and context.flow is not None:
        text = write_out(context.flow.name, parameters)
        for file in (layout.root / name / f"{context.flow.name}.toml" for name in writes):
            if file.parent.is_dir() and not _says(file, text):
                write_text(file, text)


def _says(file: Path, text: str) -> bool:
    """Tell whether a file holds this text already: a run that changes nothing leaves its results untouched."""
    try:
        return read_bounded(file, MOST_BYTES) == text.encode("utf-8")
    except (OSError, ValueError):
        return False
