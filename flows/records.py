"""A flow at work on a store: what it reads is fetched, what it writes is uploaded, with the recipe that repeats it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from prefect.context import FlowRunContext

from flows.parameters import FlowParameters
from flows.recipes import MOST_BYTES, write_out
from storage.atomic import write_text
from storage.layout import Layout
from storage.untrusted import read_bounded
from tasks.mirroring import shared


@asynccontextmanager
async def recorded(
    parameters: FlowParameters, layout: Layout, reads: Sequence[str], writes: Sequence[str]
) -> AsyncIterator[None]:
    """Share what a flow reads and writes; once it is done, write its recipe into the folders of its results."""
    async with shared(layout, reads=reads, writes=writes):
        yield
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
