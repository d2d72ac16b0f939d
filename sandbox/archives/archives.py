"""Three small archives on loopback, started and stopped together."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from aiohttp import web

from sandbox.archives.chronicling_america import SandboxChroniclingAmerica
from sandbox.archives.documents import ARCHIVE_OF, SandboxDocument, SourceSummary, summarise
from sandbox.archives.hub import SandboxHub
from sandbox.archives.internet_archive import SandboxInternetArchive
from sandbox.archives.serving import Fault, Traffic
from storage.errors import ParameterError, PrerequisiteError

HOST = "127.0.0.1"
ROUTES = (
    "ia-scrape",
    "ia-metadata",
    "ia-download",
    "ia-file",
    "loc-search",
    "loc-text",
    "hub-api",
    "hub-tree",
    "hub-resolve",
)
"""The names under which requests are counted and faults are planned."""


class SandboxArchives:
    """Serves documents as archive.org, loc.gov and the Hugging Face hub do, on five ports of 127.0.0.1.

    Use it as an asynchronous context manager: on entry the documents are read once and laid down in a temporary
    folder, and the ports are opened; on exit both are gone.

    Args:
        documents: What to serve; read once, so a generator will do and a large `DocumentFolder` stays on disk.
        port: First of five consecutive ports; 0 lets the system choose.
        unavailable_items: Give every Internet Archive source one extra item that cannot be had.
        faults: Misbehaviours by route name (see `ROUTES`), one a request, in order.

    Raises:
        ParameterError: On construction for an unknown route; on entry if there are no documents.
        PrerequisiteError: On entry if a port is taken.
    """

    def __init__(
        self,
        documents: Iterable[SandboxDocument],
        port: int = 0,
        *,
        unavailable_items: bool = False,
        faults: Mapping[str, Sequence[Fault]] | None = None,
    ) -> None:
        unknown = sorted(set(faults or {}) - set(ROUTES))
        if unknown:
            raise ParameterError(f"faults for unknown routes {', '.join(unknown)}; known: {', '.join(ROUTES)}")
        self._documents = documents
        self._port = port
        self._unavailable_items = unavailable_items
        self._traffic = Traffic(faults or {})
        self._stack = AsyncExitStack()
        self._urls: dict[str, str] = {}
        self._summaries: dict[str, SourceSummary] = {}

    @property
    def requests(self) -> Counter[str]:
        """How many requests each route has had."""
        return self._traffic.requests

    @property
    def summaries(self) -> dict[str, SourceSummary]:
        """What is served, by catalogue source: counts, digests and windows, for `write_catalogue`."""
        return self._summaries

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that lead a client here; set them before `datasets` is imported."""
        loopback = f"{HOST},localhost"
        direct = ",".join(filter(None, (os.environ.get("NO_PROXY") or os.environ.get("no_proxy"), loopback)))
        return {
            "DISTRUST_ARCHIVE_ORG_URL": self._urls["archive"],
            "DISTRUST_LOC_URL": self._urls["loc"],
            "DISTRUST_LOC_TEXT_URL": self._urls["loc-text"],
            "HF_ENDPOINT": self._urls["hub"],
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": direct,
            "no_proxy": direct,
        }

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sandbox-archives-")))
            archive = SandboxInternetArchive(folder)
            stack.callback(archive.close)
            newspapers = SandboxChroniclingAmerica(folder)
            stack.callback(newspapers.close)
            hub = SandboxHub(folder)
            await asyncio.to_thread(self._lay_down, archive, newspapers, hub)
            applications = {
                "archive": archive.application(self._traffic),
                "archive-files": archive.file_application(self._traffic),
                "loc": newspapers.application(self._traffic),
                "loc-text": newspapers.text_application(self._traffic),
                "hub": hub.application(self._traffic),
            }
            for offset, (name, application) in enumerate(applications.items()):
                self._urls[name] = await self._serve(stack, application, self._port and self._port + offset)
            archive.file_url = self._urls["archive-files"]
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    def _lay_down(
        self, archive: SandboxInternetArchive, newspapers: SandboxChroniclingAmerica, hub: SandboxHub
    ) -> None:
        def laid_down() -> Iterator[SandboxDocument]:
            for document in self._documents:
                match ARCHIVE_OF[document.source]:
                    case "internet_archive":
                        archive.add(document)
                    case "chronicling_america":
                        newspapers.add(document)
                    case "hugging_face":
                        hub.add(document)
                yield document

        self._summaries = summarise(laid_down())
        archive.finish(self._unavailable_items)
        newspapers.finish()
        hub.finish({source: summary.revision for source, summary in self._summaries.items()})

    async def _serve(self, stack: AsyncExitStack, application: web.Application, port: int) -> str:
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        try:
            await web.TCPSite(runner, HOST, port).start()
        except OSError as error:
            raise PrerequisiteError(
                f"port {port} of {HOST} cannot be opened ({error.strerror}); free it, or use port 0 to get any"
            ) from error
        return f"http://{HOST}:{runner.addresses[0][1]}"
