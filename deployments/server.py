"""The local Prefect server and its workers: started, found again and stopped.

Everything it keeps lies in ``.prefect`` beside the project: database, logs, process ids.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deployments.access import AUTH, CSRF, DATABASE, HOST, Access, from_environment, recall, remember
from storage.errors import PrerequisiteError

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_PORT = 4200
START_TIMEOUT_SECONDS = 120.0
STOP_TIMEOUT_SECONDS = 20.0

# One by one, the recorder costs four times the processor time and falls behind under load.
SERVER_SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    # Leases that a server keeps in memory die with it, and the slots that they held would stay taken for ever.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
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


def home() -> Path:
    """Folder of the server's database and logs, readable by its owner alone."""
    folder = Path(os.environ.get("PREFECT_HOME") or ROOT / ".prefect")
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)  # the database holds the key to the secrets in it
    return folder


def access_to(port: int) -> Access:
    """How the server on this port is reached: as remembered, else as the environment says."""
    known = recall(home())
    return known if known is not None and (known.port == port or known.url) else from_environment(port)


def api_url(port: int) -> str:
    """Address of the server's API."""
    return access_to(port).api_url


def is_healthy(port: int) -> bool:
    """Tell whether a Prefect server answers on this port."""
    try:
        with urllib.request.urlopen(f"{api_url(port)}/health", timeout=2) as answer:  # noqa: S310 - checked by Access
            return bool(answer.read().strip() == b"true")
    except (OSError, ValueError):
        return False


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
    }
    for secret in (AUTH, DATABASE):  # a client needs neither; a run's environment is easily printed
        environment.pop(secret, None)
    return environment


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, mode=0o600)


def spawn(name: str, command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a process that outlives this one; its output goes to ``.prefect/NAME.log``, its id beside it.

    The new session keeps a Ctrl-C in this terminal away from it; nobody else reads what it writes.
    """
    with open(home() / f"{name}.log", "ab", opener=_private) as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            umask=0o077,
        )
    (home() / f"{name}.pid").write_text(str(process.pid), "utf-8")
    return process


def server_command(access: Access) -> list[str]:
    """Command line of a server; it holds no secret."""
    return [sys.executable, "-m", "deployments.prefect_server", "--host", access.host, "--port", str(access.port)]


def server_environment(access: Access) -> dict[str, str]:
    """Environment of a server."""
    own = {"PREFECT_HOME": str(home()), **access.server_environment(), **access.client_environment()}
    return {**SERVER_SETTINGS, **os.environ, **own}


def start_server(port: int, access: Access | None = None) -> subprocess.Popen[bytes]:
    """Start the server and wait until it answers.

    Args:
        port: Port to listen on.
        access: How it is to be reached; by default loopback, with what the environment says.

    Raises:
        PrerequisiteError: It did not come up; the message names its log.
    """
    access = access or from_environment(port)
    remember(home(), access)
    process = spawn("server", server_command(access), server_environment(access))
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if is_healthy(port):
            return process
        time.sleep(0.3)
    stop("server")
    raise PrerequisiteError(f"the Prefect server did not start on port {port}; {home() / 'server.log'} says why")


def running_port() -> int | None:
    """Port of the local server that was started earlier, if it still answers."""
    known = recall(home())
    return known.port if known is not None and not known.url and is_healthy(known.port) else None


def start_worker(name: str, pool: str, port: int) -> None:
    """Start a process worker on a pool."""
    spawn(f"worker-{name}", worker_command(name, pool), worker_environment(port))


def worker_command(name: str, pool: str) -> list[str]:
    """Command line of a process worker."""
    return [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--name", name, "--type", "process"]


def worker_environment(port: int) -> dict[str, str]:
    """Environment of a worker and of the runs that it starts."""
    return client_environment(port) | {"DISTRUST_ROOT": str(ROOT), "PREFECT_WORKER_QUERY_SECONDS": "5"}


def started_processes() -> list[str]:
    """Names of the processes that were started and not stopped, workers first."""
    return sorted((path.stem for path in home().glob("*.pid")), key=lambda name: (name == "server", name))


def is_running(name: str) -> bool:
    """Tell whether a process that was started here under this name is alive."""
    return _living_process(name) is not None


def _living_process(name: str) -> int | None:
    try:
        pid = int((home() / f"{name}.pid").read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return pid if _is_alive(pid) and _is_ours(pid) else None


def _is_alive(pid: int) -> bool:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def stop(name: str) -> bool:
    """Stop a process started here, gently first; tell whether it was running."""
    pid = _living_process(name)
    if pid is not None:
        for sign, patience_seconds in ((signal.SIGINT, STOP_TIMEOUT_SECONDS), (signal.SIGKILL, 5.0)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, sign)
            deadline = time.monotonic() + patience_seconds
            while _is_alive(pid) and time.monotonic() < deadline:
                time.sleep(0.1)
            if not _is_alive(pid):
                break
    (home() / f"{name}.pid").unlink(missing_ok=True)
    return pid is not None


def _is_ours(pid: int) -> bool:
    """Guard against a process id that the system gave to somebody else since."""
    command = ["ps", "-ww", "-o", "command=", "-p", str(pid)]  # -ww: however deep our folder lies
    return "prefect" in subprocess.run(command, capture_output=True, text=True, check=False).stdout


@contextmanager
def local_server(port: int = DEFAULT_PORT) -> Iterator[int]:
    """Use the server that is up, else run one for the duration of the block; yields its port.

    How this folder's server is reached stays as it was: services and later commands go by that record.
    """
    running = running_port()
    if running is not None:
        yield running
        return
    port = free_port(port)
    before = recall(home())
    try:
        start_server(port)
        yield port
    finally:
        stop("server")
        if before is not None:
            remember(home(), before)
