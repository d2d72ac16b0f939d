from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tasks.sources.catalogue import SourceSpec
from tasks.sources.connection import Archives, Connection, Pace
from tasks.sources.http import ArchiveClient
from tasks.sources.opening import open_source
from tasks.sources.pace import Clock
from tasks.sources.web import Web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Serve = Callable[[Mapping[str, Handler]], Awaitable[str]]

RECORDED = Path(__file__).resolve().parents[4] / "shared" / "api"


class FakeClock(Clock):
    """A clock on which waiting takes no time and leaves a trace."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def time(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        over = self.now + seconds
        await asyncio.sleep(0)  # whoever else waits begins to wait now, not after this
        self.now = max(self.now, over)


@asynccontextmanager
async def client_to(
    root: str, clock: Clock | None = None, *, requests_per_second: float = 1000.0, **options: Any
) -> AsyncIterator[ArchiveClient]:
    """Open a client of its own web; options of the web are told from those of the client by name."""
    names = ("contact", "patience_seconds", "silence_seconds", "notify")
    about_web = {name: options.pop(name) for name in names if name in options}
    async with Web(clock=clock, **about_web) as web:
        yield ArchiveClient(web, root, requests_per_second=requests_per_second, **options)


def make_spec(**fields: Any) -> SourceSpec:
    """Make a catalogue entry; without fields, of local files."""
    entry = {"name": "s", "archive": "local_files", "path": "p", "source_type": "wiki", "trivium": "logic"}
    return SourceSpec.model_validate(entry | fields)


@asynccontextmanager
async def opened(
    spec: SourceSpec,
    to: str | Connection = "",
    clock: Clock | None = None,
    workspace: Path | None = None,
    **options: Any,
) -> AsyncIterator[Any]:
    """Open a source whose archive is at `to`; options are those of the web and of the pace, by name."""
    about_web = {
        name: options.pop(name) for name in ("patience_seconds", "notify", "silence_seconds") if name in options
    }
    connection = to if isinstance(to, Connection) else Connection(to, to, to, to) if to else Connection()
    async with Web(clock=clock, **about_web) as web:
        archives = Archives(connection, Pace(**{"requests_per_second": 1000.0, **options}), web, 2026)
        async with open_source(spec, archives, workspace) as source:
            yield source


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Start servers on loopback from a mapping of route to handler; each call returns a root URL."""
    servers: list[TestServer] = []

    async def start(routes: Mapping[str, Handler]) -> str:
        app = web.Application()
        for route, handler in routes.items():
            app.router.add_get(route, handler)
        server = TestServer(app)
        await server.start_server()
        servers.append(server)
        return str(server.make_url("/")).rstrip("/")

    yield start
    for server in servers:
        await server.close()


def recorded(name: str) -> Path:
    """Return the path of a recorded answer, or skip the test where the recordings are not at hand."""
    path = RECORDED / name
    if not path.is_file():
        pytest.skip(f"no recorded answers beside this checkout ({name})")
    return path
