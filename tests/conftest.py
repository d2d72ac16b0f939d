"""Fixtures shared by the whole suite."""

from __future__ import annotations

import contextlib
import inspect
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from storage import blas
from tests.prefect_database import give_database

ROOT = Path(__file__).resolve().parent.parent

# The drills ask the API without Prefect's client; tests/deployments/test_guard.py has this protection on.
os.environ.setdefault("PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED", "false")

# A shell that starts the tests in the background lets them ignore SIGINT; a worker that inherits that never stops.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)

blas.load()  # as every child process that trains, evaluates or exports does


@dataclass(frozen=True)
class PrefectServer:
    """A running server of the project, as `make up` starts it."""

    port: int
    pid: int
    key: str


AT_ONCE = {"PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "0.3"}
"""Tests wait for events, so they are kept as soon as they come."""


@pytest.fixture(scope="session")
def running_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """One Prefect server with an empty database for all tests that need one."""
    from deployments import server
    from deployments.access import CSRF, Access
    from deployments.prefect_server import IDENTITY_KEY

    access = Access(port=server.free_port(0), token="key-of-the-tests")
    home = give_database(tmp_path_factory.mktemp("prefect"))
    own = {CSRF: "true", "PREFECT_HOME": str(home), IDENTITY_KEY: access.token}
    environment = server.SERVER_SETTINGS | AT_ONCE | os.environ | own
    with (home / "server.log").open("wb") as log:
        process = subprocess.Popen(server.server_command(access), cwd=ROOT, env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 300  # a machine with much else to do needs minutes
        while not server.is_ours(access):
            assert process.poll() is None and time.monotonic() < deadline, (home / "server.log").read_text()
            time.sleep(0.1)
        yield PrefectServer(access.port, process.pid, access.token)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def prefect_server(running_server: PrefectServer) -> Iterator[None]:
    """Let Prefect in this process, and commands of their own, use the server of the tests."""
    # Importing Prefect takes seconds; tests of the cores must not wait for it.
    from prefect.context import _temporary_global_settings_context, get_settings_context
    from prefect.settings import PREFECT_API_URL, temporary_settings
    from prefect.utilities.asyncutils import run_coro_as_sync

    url = f"http://127.0.0.1:{running_server.port}/api"
    with pytest.MonkeyPatch.context() as patched, temporary_settings({PREFECT_API_URL: url}):
        patched.setenv("PREFECT_API_URL", url)
        with _temporary_global_settings_context(get_settings_context()):  # for event loops that were made before
            yield
            run_coro_as_sync(send_the_rest())


async def send_the_rest() -> None:
    """Let Prefect's threads send what they hold while there is a server; else they try again for a minute."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    with contextlib.suppress(RuntimeError):  # nothing was ever logged
        await maybe(APILogWorker.instance().drain())
    await maybe(EventsWorker.drain_all())


async def maybe(answer: Any) -> None:
    if inspect.isawaitable(answer):
        await answer


LONGEST = ("test_stop_drills.py", "test_outage_drills.py", "test_operations_drill.py")
"""Drills of some minutes each."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, so that no process is left alone with it: the whole pipeline, then the drills."""
    here = Path(__file__).parent
    items.sort(
        key=lambda item: (
            item.path.name not in LONGEST,
            item.get_closest_marker("end_to_end") is None,
            item.path.parent != here,
        )
    )
