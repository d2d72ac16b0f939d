"""A flow at work on a store: what it reads is fetched, what it writes is uploaded, with the recipe that repeats it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from prefect.context import FlowRunContext

from flows.parameters import FlowParameters
from flows.recipes import write_out
from storage.atomic import write_text
from storage.layout import Layout
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
            for folder in (layout.root / name for name in writes):
                if folder.is_dir():
                    write_text(folder / f"{context.flow.name}.toml", text)
