"""Processes that outlive the command which starts them: started, found again and stopped.

Each has a log and a file with its process id in ``.prefect``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STOP_TIMEOUT_SECONDS = 20.0
SAVE_TIMEOUT_SECONDS = 40.0
"""How long the runs of a worker that is stopped have to save their work."""


def home() -> Path:
    """Folder of the server's database and logs, readable by its owner alone."""
    folder = Path(os.environ.get("PREFECT_HOME") or ROOT / ".prefect")
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)  # the database holds the key to the secrets in it
    return folder


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, mode=0o600)


def spawn(name: str, command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a process that outlives this one; its output goes to ``.prefect/NAME.log``, its id beside it.

    The new session keeps a Ctrl-C in this terminal away from it; only its owner can read what it writes.
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
    (home() / f"{name}.pid").write_text(f"{process.pid} {_start_of(process.pid)}", "utf-8")
    return process


def detach(process: subprocess.Popen[bytes]) -> None:
    """Let a process outlive this one, without Python's warning that it is still running."""
    process.returncode = 0


def started_processes() -> list[str]:
    """Names of the processes that were started and not stopped, workers first."""
    return sorted((path.stem for path in home().glob("*.pid")), key=lambda name: (name == "server", name))


def is_running(name: str) -> bool:
    """Tell whether a process that was started here under this name is alive."""
    return living_process(name) is not None


def living_process(name: str) -> int | None:
    """Return the id of a process that was started here under this name, if it is alive.

    The system reuses the id of a process that has ended, so the moment at which it began counts as well.
    """
    try:
        pid, _, start = (home() / f"{name}.pid").read_text("utf-8").partition(" ")
        return int(pid) if start and is_alive(int(pid)) and _start_of(int(pid)) == start else None
    except (FileNotFoundError, ValueError):
        return None


def is_alive(pid: int) -> bool:
    """Tell whether a process has not ended."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    return bool(_start_of(pid))


def _ps(*options: str) -> str:
    environment = {**os.environ, "LC_ALL": "C", "TZ": "UTC0"}
    return subprocess.run(["ps", *options], capture_output=True, text=True, check=False, env=environment).stdout


def _start_of(pid: int) -> str:
    """When a process began, as the system writes it; empty if there is none, or if it has ended."""
    with contextlib.suppress(OSError, IndexError):  # Linux: counted from the start of the machine, whatever its clock
        state, *more = Path(f"/proc/{pid}/stat").read_text("utf-8", errors="replace").rpartition(")")[2].split()
        return "" if state in "ZX" else more[18]
    state, _, start = _ps("-o", "stat=", "-o", "lstart=", "-p", str(pid)).strip().partition(" ")
    return "" if state.startswith("Z") else start.strip()


def descendants(pid: int) -> list[int]:
    """Ids of all processes that a process has started, and of those that they have started."""
    rows = [
        (int(child), int(parent))
        for child, parent in map(str.split, _ps("-ax", "-o", "pid=", "-o", "ppid=").splitlines())
    ]
    found = [pid]
    for member in found:
        found += [child for child, parent in rows if parent == member and child not in found]
    return found[1:]


def stop(name: str) -> bool:
    """Stop a process started here, gently first; tell whether it was running.

    The processes that a worker has started end before it, and have time to save: an interrupted worker kills its runs.
    Meanwhile the worker is suspended, since it would start the next run of its queue for each one that ends.
    """
    pid = living_process(name)
    if pid is not None:
        _send(pid, signal.SIGSTOP)
        try:
            end_family([(child, _start_of(child)) for child in descendants(pid)])
        finally:
            _send(pid, signal.SIGINT)
            _send(pid, signal.SIGCONT)
        if not wait_for_end([pid], STOP_TIMEOUT_SECONDS):
            _send(pid, signal.SIGKILL)
            wait_for_end([pid], 5.0)
    (home() / f"{name}.pid").unlink(missing_ok=True)
    return pid is not None


def _send(pid: int, sign: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, sign)


def end_family(family: Iterable[tuple[int, str]]) -> None:
    """End processes, given by their ids and when they began: SIGTERM, and SIGKILL for those that do not end."""
    left = list(family)
    for sign, patience in ((signal.SIGTERM, SAVE_TIMEOUT_SECONDS), (signal.SIGKILL, 5.0)):
        left = [(pid, start) for pid, start in left if is_alive(pid) and _start_of(pid) == start]
        for pid, _ in left:
            _send(pid, sign)
        if not left or wait_for_end([pid for pid, _ in left], patience):
            return


def wait_for_end(pids: Iterable[int], patience_seconds: float) -> bool:
    """Wait until processes have ended; tell whether they have."""
    deadline = time.monotonic() + patience_seconds
    while any(map(is_alive, pids)):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.1)
    return True
