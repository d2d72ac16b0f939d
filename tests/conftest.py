"""Fixtures shared by the whole suite."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest

from storage import blas
from tests.prefect_database import template

# The drills ask the API without Prefect's client; tests/deployments/test_guard.py has this protection on.
os.environ.setdefault("PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED", "false")

# A shell that starts the tests in the background lets them ignore SIGINT; a worker that inherits that never stops.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)

blas.load()  # as every child process that trains, evaluates or exports does


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """One temporary Prefect server with an empty database for all tests that need one."""
    # Importing Prefect takes seconds; tests of the cores must not wait for it.
    from prefect.settings import PREFECT_API_URL
    from prefect.testing import utilities

    folder = mkdtemp()  # the harness removes it at the end
    shutil.copyfile(template(), Path(folder) / "prefect-test.db")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(utilities, "mkdtemp", lambda: folder)
        with utilities.prefect_test_harness(server_startup_timeout=120):
            patched.setenv("PREFECT_API_URL", str(PREFECT_API_URL.value()))  # for commands, and processes of their own
            yield


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
