"""A real PostgreSQL on loopback, as the user who may run it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deployments import server

PROGRAMS = Path("/usr/lib/postgresql")
PASSWORD = "pg-password-of-this-test"


def program(name: str) -> str | None:
    """Where a program of PostgreSQL lies."""
    found = sorted(PROGRAMS.glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(found[-1]) if found else None)


def missing() -> str:
    """Why there can be no PostgreSQL here; empty if there can."""
    if program("initdb") is None or program("pg_ctl") is None:
        return "initdb and pg_ctl of PostgreSQL are not installed"
    if os.getuid() == 0 and subprocess.run(["id", "postgres"], capture_output=True, check=False).returncode:
        return "PostgreSQL does not run as root, and there is no user postgres"
    return ""


class Postgres:
    """One database cluster with a password, listening on loopback only."""

    def __init__(self, folder: Path) -> None:
        self._data, self._log = folder / "data", folder / "log"
        self.port = server.free_port(0)
        password = folder / "password"
        password.write_text(PASSWORD)
        if os.getuid() == 0:
            for path in (folder, password):
                shutil.chown(path, "postgres")
        initdb = [str(program("initdb")), "-D", str(self._data), "-U", "prefect", "-A", "scram-sha-256"]
        self._run([*initdb, "--pwfile", str(password), "-E", "UTF8", "--no-sync"])
        self.start()

    @property
    def url(self) -> str:
        """Address of the database, as `make up DATABASE=` wants it."""
        return f"postgresql+asyncpg://prefect:{PASSWORD}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Start and wait until it takes connections."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        self._run([str(program("pg_ctl")), "-D", str(self._data), "-l", str(self._log), "-o", options, "-w", "start"])

    def stop(self, mode: str = "immediate") -> None:
        """Stop it; ``immediate`` is what a power cut does."""
        self._run([str(program("pg_ctl")), "-D", str(self._data), "-m", mode, "-w", "stop"])

    def ask(self, statement: str) -> str:
        """Return what psql answers, bare."""
        command = [str(program("psql")), "-h", "127.0.0.1", "-p", str(self.port), "-U", "prefect", "-d", "postgres"]
        return self._run([*command, "-Atc", statement])

    def _run(self, command: list[str]) -> str:
        if os.getuid() == 0:
            command = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *command]
        environment = {**os.environ, "PGPASSWORD": PASSWORD, "LC_ALL": "C.UTF-8"}
        with tempfile.TemporaryFile() as said:  # a pipe would stay open in the server's hands
            done = subprocess.run(command, stdout=said, stderr=said, check=False, env=environment, cwd="/")
            said.seek(0)
            text = said.read().decode()
        assert done.returncode == 0, text
        return text.strip()


@contextmanager
def postgres() -> Iterator[Postgres]:
    """Run one for the duration of the block."""
    folder = Path(tempfile.mkdtemp(prefix="distrust-pg-"))  # pytest's own folders are closed to other users
    running = None
    try:
        running = Postgres(folder)
        yield running
    finally:
        if running is not None:
            with contextlib.suppress(AssertionError):
                running.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def database() -> Iterator[Postgres]:
    """One for all tests of a module."""
    if reason := missing():
        pytest.skip(reason)
    with postgres() as running:
        yield running
