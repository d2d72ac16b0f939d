"""Server and workers as services of the user's session: launchd on a Mac, systemd on Linux.

A service runs ``python -m deployments run-worker`` or ``run-server``, which read address and password from the record
of `deployments.access`: the file that describes the service holds no secret.

Stopping a worker must leave a training time to save. Prefect's worker ends its runs at once, but on SIGTERM every run
and every training saves by itself. So systemd signals the whole group (``KillMode=control-group``), and launchd, which
signals one process, leaves the others alone (``AbandonProcessGroup``). A training may be signalled by systemd, by its
flow and by its own watch over its parent: it saves at the first signal and ignores the others. Its flow waits 20
seconds for it (`tasks.policies`); a training whose flow is gone has 100 (`storage.events.end_with_parent`).
"""

from __future__ import annotations

import os
import plistlib
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from deployments import processes, server
from deployments.access import CLIENT_AUTH, Access, read_access
from storage.errors import ParameterError, PrerequisiteError
from storage.layout import checked_name
from storage.own_origin import NAMES

PREFIX = "empirical-distrust"
STOP_SECONDS = 120
"""More than a training takes to save when its flow is gone, so that the system never ends it first."""
RESTART_SECONDS = 30
HANDED_ON = ("PATH", "PREFECT_HOME", "DISTRUST_STORE", "DISTRUST_CONTACT", NAMES, "HF_HOME", "HF_ENDPOINT")
"""Variables of the installing shell that the service keeps; none of them is a secret."""


@dataclass(frozen=True)
class Service:
    """One service: its name and the arguments of ``python -m deployments``."""

    name: str
    arguments: tuple[str, ...]

    @classmethod
    def worker(cls, pool: str) -> Service:
        """The worker of a pool."""
        return cls(f"{PREFIX}-worker-{checked_name(pool, 'pool')}", ("run-worker", "--pool", pool))

    @classmethod
    def of_server(cls) -> Service:
        """The Prefect server."""
        return cls(f"{PREFIX}-server", ("run-server",))

    @property
    def command(self) -> list[str]:
        """Its command line."""
        return [sys.executable, "-m", "deployments", *self.arguments]

    @property
    def log(self) -> Path:
        """Where it writes on a Mac; on Linux the journal keeps it."""
        return processes.home() / f"{self.name}.log"


def environment() -> dict[str, str]:
    """Variables of this shell that the service is to have."""
    return {name: os.environ[name] for name in HANDED_ON if os.environ.get(name)}


def _quoted(text: str) -> str:
    """Quote one word of a unit file, in which ``%`` has a meaning of its own."""
    if any(ord(character) < 32 for character in text):
        raise ParameterError(f"{text!r} contains a line break or control character, which a service file cannot hold")
    for character, written in (("\\", "\\\\"), ('"', '\\"'), ("%", "%%")):
        text = text.replace(character, written)
    return f'"{text}"'


@dataclass(frozen=True)
class Installation:
    """How the system of this machine keeps a service: a file, and the commands that start and stop it."""

    file: Path
    text: str
    start: list[list[str]]
    stop: list[str]


def installation(service: Service) -> Installation:
    """Describe a service to launchd on a Mac, to systemd elsewhere."""
    return launchd(service) if sys.platform == "darwin" else systemd(service)


def launchd(service: Service) -> Installation:
    """Describe a service to launchd."""
    file = Path.home() / "Library" / "LaunchAgents" / f"{service.name}.plist"
    settings = {
        "Label": service.name,
        "ProgramArguments": service.command,
        "WorkingDirectory": str(processes.ROOT),
        "EnvironmentVariables": environment(),
        "RunAtLoad": True,
        "KeepAlive": True,
        "ThrottleInterval": RESTART_SECONDS,
        "ExitTimeOut": STOP_SECONDS,
        "AbandonProcessGroup": True,
        "ProcessType": "Interactive",  # anything less is slowed down while the Mac is idle
        "Umask": 0o077,
        "StandardOutPath": str(service.log),
        "StandardErrorPath": str(service.log),
    }
    domain = f"gui/{os.getuid()}"
    start = ["launchctl", "bootstrap", domain, str(file)]
    stop = ["launchctl", "bootout", f"{domain}/{service.name}"]
    return Installation(file, plistlib.dumps(settings).decode(), [start], stop)


def systemd(service: Service) -> Installation:
    """Describe a service to the systemd of the user's session."""
    command = " ".join(_quoted(word.replace("$", "$$")) for word in service.command)
    variables = "".join(f"Environment={_quoted(f'{name}={value}')}\n" for name, value in environment().items())
    folder = str(processes.ROOT).replace("%", "%%")
    unit = f"""\
[Unit]
Description=Empirical Distrust: {" ".join(service.arguments)}
StartLimitIntervalSec=0

[Service]
Type=exec
WorkingDirectory={folder}
{variables}ExecStart={command}
Restart=always
RestartSec={RESTART_SECONDS}
KillMode=control-group
KillSignal=SIGTERM
TimeoutStopSec={STOP_SECONDS}
UMask=0077
NoNewPrivileges=yes

[Install]
WantedBy=default.target
"""
    settings = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    systemctl = ["systemctl", "--user"]
    start = [[*systemctl, "daemon-reload"], [*systemctl, "enable", "--now", service.name]]
    file = settings / "systemd" / "user" / f"{service.name}.service"
    return Installation(file, unit, start, [*systemctl, "disable", "--now", service.name])


def install(service: Service) -> list[str]:
    """Write a service, restart it if it runs already, and say what was done.

    Raises:
        PrerequisiteError: The system would not start it; the message holds its words.
    """
    wanted = installation(service)
    if wanted.file.exists():
        uninstall(service)
    wanted.file.parent.mkdir(parents=True, exist_ok=True)
    wanted.file.write_text(wanted.text, "utf-8")
    wanted.file.chmod(0o644)
    done = [f"{service.name}: written to {wanted.file}"]
    program = wanted.stop[0]
    if shutil.which(program) is None:
        return [*done, f"not started: {program} is not installed on this machine"]
    for command in wanted.start:
        if problem := _run(command):
            raise PrerequisiteError(f"{wanted.file} is written, but `{' '.join(command)}` failed: {problem}")
    done.append(f"{service.name}: started, and it starts again with every login")
    if program == "systemctl":
        done.append("to keep it running while nobody is logged in: loginctl enable-linger")
    return done


def uninstall(service: Service) -> list[str]:
    """Stop a service and remove its file; one that is not installed stays so."""
    present = installation(service)
    if not present.file.exists():
        return [f"{service.name}: not installed"]
    problem = _run(present.stop) if shutil.which(present.stop[0]) else ""
    present.file.unlink()
    return [*([f"{service.name}: {problem}"] if problem else []), f"{service.name}: stopped and removed"]


def _run(command: list[str]) -> str:
    """Run a command; return what it complained about, nothing if it succeeded."""
    answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=STOP_SECONDS + 30)
    return "" if answer.returncode == 0 else (answer.stderr or answer.stdout).strip() or f"status {answer.returncode}"


def work_for(url: str) -> None:
    """Make this folder's workers work for a server on another machine; the password comes from the environment.

    Raises:
        ParameterError: The address is not one of a server.
    """
    Access(url=url, auth=os.environ.get(CLIENT_AUTH, "")).save(processes.home())


def known_access() -> Access:
    """Return how the server is reached; PrerequisiteError if no server was started here and none was named."""
    access = read_access(processes.home())
    if access is None:
        raise PrerequisiteError("no server is known here: start one with `make up`, or name one with --server URL")
    return access


def run_worker(pool: str) -> None:
    """Become the worker of a pool.

    Raises:
        PrerequisiteError: The runs of the one before it could not be marked, as while the server is not up yet.
    """
    name = f"{pool}-{os.uname().nodename.partition('.')[0]}"
    environment = server.worker_environment(known_access().port)
    os.environ.update(environment)
    server.mark_dead_runs({name: pool}, required=True)  # the system starts the service again
    _become(server.worker_command(name, pool), environment)


def run_server() -> None:
    """Become the server."""
    access = known_access()
    if access.url:
        raise ParameterError(f"this folder uses the server at {access.url}; run `make up` to start one here")
    while server.running_access() is not None:  # a command has started one, which ends with it
        time.sleep(2)
    access = server.record_start(access)
    server.keep()
    _become(server.server_command(access), server.server_environment(access))


def _become(command: list[str], variables: dict[str, str]) -> None:
    # A shell that starts something in the background lets it ignore SIGINT, and Prefect stops by SIGINT.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.umask(0o077)
    os.chdir(processes.ROOT)
    sys.stdout.flush()
    os.execve(command[0], command, variables)  # noqa: S606 - our own interpreter
