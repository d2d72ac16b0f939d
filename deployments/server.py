"""The local Prefect server and its workers: started, found again and stopped.

Their database, logs and process ids are in ``.prefect`` beside the project.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hmac
import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from http.client import HTTPException
from typing import TextIO

from deployments.access import AUTH, CSRF, DATABASE, HOST, RUNNING, Access, from_environment, read_access
from deployments.prefect_server import IDENTITY, IDENTITY_KEY, KEPT, proof
from deployments.processes import ROOT, detach, home, is_running, spawn, stop
from storage.errors import PrerequisiteError
from storage.lock import if_free, only_holder, shared_holder

DEFAULT_PORT = 4200
START_TIMEOUT_SECONDS = 120.0
USERS = "users.lock"
"""Lock file that every command holds while it uses the server."""
MARK_SECONDS = 20.0

SERVER_SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    # One by one, the recorder costs four times the processor time and falls behind under load.
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_READ_BATCH_SIZE": "100",
    # Without these the database of a project that runs for months only grows.
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(90 * 24 * 3600),
    # A page in the user's browser must not be able to start runs.
    CSRF: "true",
}
CLIENT_SETTINGS = {
    "PREFECT_CLIENT_MAX_RETRIES": "8",
    # What the server answers while its PostgreSQL is away; without it a task that reports then fails its run.
    "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500",
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "60",
    "DO_NOT_TRACK": "1",
}


def access_to(port: int) -> Access:
    """How the server on this port is reached: as recorded, else as the environment says."""
    for known in (read_access(home(), RUNNING), read_access(home())):
        if known is not None and (known.port == port or known.url):
            return known
    return from_environment(port)


def api_url(port: int) -> str:
    """Address of the server's API."""
    return access_to(port).api_url


def free_port(wanted: int) -> int:
    """Return the wanted port, or any free one when another program has it."""
    for port in (wanted, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            return int(probe.getsockname()[1])
    raise PrerequisiteError(f"no free port on {HOST}")


def client_environment(port: int) -> dict[str, str]:
    """Environment of a process that talks to the local server."""
    environment = {
        **os.environ,
        **CLIENT_SETTINGS,
        "PREFECT_HOME": str(home()),
        **access_to(port).client_environment(),
        "PYTHONPATH": str(ROOT),
        "NO_PROXY": ",".join(filter(None, [os.environ.get("NO_PROXY"), HOST, "localhost"])),
    }
    for secret in (AUTH, DATABASE, IDENTITY_KEY):  # a client needs none of them; a run's environment is easily printed
        environment.pop(secret, None)
    return environment


def server_command(access: Access) -> list[str]:
    """Command line of a server; it holds no secret."""
    return [sys.executable, "-m", "deployments.prefect_server", "--host", access.host, "--port", str(access.port)]


def server_environment(access: Access) -> dict[str, str]:
    """Environment of a server."""
    own = {"PREFECT_HOME": str(home()), **access.server_environment(), **access.client_environment()}
    return {**SERVER_SETTINGS, **os.environ, **own, IDENTITY_KEY: access.token}


def record_start(access: Access) -> Access:
    """Give a server that is about to start its secret, and record how it is reached."""
    access = dataclasses.replace(access, token=secrets.token_hex(32))
    access.save(home(), RUNNING)
    return access


def start_server(port: int, access: Access | None = None, *, while_used: bool = False) -> subprocess.Popen[bytes]:
    """Start the server and wait until it answers; `while_used`, it ends by itself once no command uses it any more.

    Raises:
        PrerequisiteError: It did not come up; the message names its log.
    """
    access = record_start(dataclasses.replace(access or from_environment(port), port=port))
    command = server_command(access) + (["--while-used", str(home() / USERS)] if while_used else [])
    process = spawn("server", command, server_environment(access))
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if is_ours(access):
            return process
        time.sleep(0.3)
    stop("server")
    raise PrerequisiteError(
        f"the Prefect server did not start on port {port}; see {home() / 'server.log'} for the reason"
    )


def is_ours(access: Access) -> bool:
    """Tell whether the server that we started answers: another program on its port does not know the token."""
    challenge = secrets.token_hex(16)
    address = f"{access.api_url.removesuffix('/api')}{IDENTITY}?challenge={challenge}"
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy does not know this machine
    try:
        with direct.open(address, timeout=5) as answer:
            given = json.loads(answer.read(1000))["proof"]
        return bool(access.token) and hmac.compare_digest(str(given), proof(access.token, challenge))
    except (OSError, ValueError, LookupError, TypeError, HTTPException):
        return False


def running_access() -> Access | None:
    """How the local server is reached that was started earlier, if it still answers."""
    known = read_access(home(), RUNNING)
    return known if known is not None and is_ours(known) else None


def running_port() -> int | None:
    """Port of the local server that was started earlier, if it still answers."""
    known = running_access()
    return known.port if known is not None else None


def join_or_start(wanted: Access) -> int:
    """Use the server that is up, else start one; returns its port.

    When several commands begin together, one starts it and the others wait. If another program takes the port between
    the look and the bind, a free one is used.

    Raises:
        PrerequisiteError: It did not come up.
    """
    with _only_starter():
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while (running := running_port()) is None and is_running("server") and time.monotonic() < deadline:
            time.sleep(0.5)  # it is busy; a second one would share its database
        if running is not None:
            return running
        let_go()  # left by a server that ended with its machine
        port = free_port(wanted.port)
        try:
            process = start_server(port, wanted, while_used=True)
        except PrerequisiteError:
            log = (home() / "server.log").read_text("utf-8", "replace")
            if port == (port := free_port(wanted.port)) and "address already in use" not in log:
                raise  # the port is still free, and nobody had it meanwhile: something else is wrong
            process = start_server(port, wanted, while_used=True)
        detach(process)
        return port


def _only_starter() -> AbstractContextManager[None]:
    """Start servers here alone; another process that starts one is waited for."""
    used_by, patience_seconds = "the Prefect server is being started by", 2 * START_TIMEOUT_SECONDS
    return only_holder(home() / ".server.lock", used_by, patience_seconds, partial(print, file=sys.stderr))


def worker_command(name: str, pool: str) -> list[str]:
    """Command line of a process worker."""
    return [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--name", name, "--type", "process"]


def worker_environment(port: int) -> dict[str, str]:
    """Environment of a worker and of the runs that it starts."""
    return client_environment(port) | {"DISTRUST_ROOT": str(ROOT), "PREFECT_WORKER_QUERY_SECONDS": "5"}


def mark_dead_runs(
    workers: Mapping[str, str], stream: TextIO | None = None, *, required: bool = False, **words: str
) -> None:
    """Mark the runs of this machine whose process has died, on the server that the environment names; print which.

    `workers` of this machine, with their pools, have ended. Before others take their place, marking is `required`: from
    then on nothing tells the runs that the old ones had taken from those of the new ones.

    Raises:
        PrerequisiteError: They could not be marked, and this is `required`.
    """
    from flows.liveness import mark_dead_runs as mark  # reads the server's address when imported

    patience_seconds = 3 * MARK_SECONDS if required else MARK_SECONDS
    try:
        for run in asyncio.run(asyncio.wait_for(mark(workers=workers, **words), patience_seconds)):
            print(f"run        {run}: its process no longer exists", file=stream)
    except Exception as error:  # earlier runs must not keep a command from its work
        failure = f"Earlier runs were not marked ({type(error).__name__})"
        if required:
            raise PrerequisiteError(f"{failure}, so no worker was started; run it again") from error
        print(f"{failure}; the next command does it.", file=sys.stderr)


def keep() -> None:
    """Let the server stay when no command uses it any more."""
    (home() / KEPT).touch()


def let_go() -> None:
    """Let the server end once no command uses it any more."""
    (home() / KEPT).unlink(missing_ok=True)


def in_use() -> AbstractContextManager[None]:
    """Keep a server that ends by itself alive for the duration of the block, or for as long as this process lives."""
    return shared_holder(home() / USERS)  # waits for a server that is just ending


def unused() -> AbstractContextManager[bool]:
    """Tell whether no command uses the server; one that begins waits until the block is left."""
    (home() / USERS).touch()
    return if_free(home() / USERS)


@contextmanager
def local_server(port: int = DEFAULT_PORT) -> Iterator[int]:
    """Use the server that is up, else run one, for as long as it is used; yields its port."""
    with in_use():
        yield join_or_start(from_environment(port))
