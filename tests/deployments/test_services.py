"""Services of launchd and systemd: what is written, that the system understands it, and that it goes away again."""

from __future__ import annotations

import plistlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deployments import processes, server, services
from deployments.access import CLIENT_AUTH, Access
from deployments.services import STOP_SECONDS, Service
from storage.errors import ParameterError, PrerequisiteError
from storage.events import ORPHAN_GRACE_SECONDS

ROOT = Path(__file__).resolve().parents[2]
SECRET = "hunter2-of-this-test"
SERVICES = [Service.worker("mac-train"), Service.of_server()]
WORKER = SERVICES[0]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder of the test's own, with a known server whose password is `SECRET`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.setenv("DISTRUST_STORE", '/srv/a "corpus" of 100% $HOME')
    monkeypatch.setenv("HF_TOKEN", f"hf_{SECRET}")
    monkeypatch.setenv(CLIENT_AUTH, f"me:{SECRET}")
    Access(auth=f"me:{SECRET}").save(processes.home())
    return tmp_path


@pytest.fixture
def recorder(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs named as the system's own that only note how they were called."""
    programs = home / "bin"
    programs.mkdir()
    for name in ("systemctl", "launchctl"):
        (programs / name).write_text(f'#!/bin/sh\necho "{name} $*" >> "{home}/calls"\nexit "${{STATUS:-0}}"\n')
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    return home / "calls"


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_the_plist_restarts_and_leaves_a_training_time_to_save(service: Service) -> None:
    plist = plistlib.loads(services.launchd(service).text.encode())
    assert plist["Label"] == service.name
    assert plist["ProgramArguments"] == [sys.executable, "-m", "deployments", *service.arguments]
    assert plist["WorkingDirectory"] == str(ROOT)
    assert plist["KeepAlive"] is plist["RunAtLoad"] is plist["AbandonProcessGroup"] is True
    assert plist["ThrottleInterval"] >= 10
    assert plist["ExitTimeOut"] == STOP_SECONDS > ORPHAN_GRACE_SECONDS + 10, "the system never ends a training first"
    assert plist["Umask"] == 0o077
    assert Path(plist["StandardOutPath"]).parent == processes.home()
    assert plist["EnvironmentVariables"]["DISTRUST_STORE"] == '/srv/a "corpus" of 100% $HOME'


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_a_service_holds_no_secret(service: Service) -> None:
    assert SECRET not in services.launchd(service).text + services.systemd(service).text


def test_a_path_with_signs_that_systemd_replaces_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/opt/100%/$HOME/python")
    assert "/opt/100%%/$$HOME/python" in services.systemd(WORKER).text
    assert services.launchd(WORKER).text.count("/opt/100%/$HOME/python") == 1


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze on this machine")
def test_systemd_understands_the_unit(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home))

    def complaints(service: Service, unit: str) -> list[str]:
        file = home / f"{service.name}.service"
        file.write_text(unit)
        command = ["systemd-analyze", "verify", "--user", "--recursive-errors=no", str(file)]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        return [line for line in answer.stderr.splitlines() if service.name in line]

    assert [line for service in SERVICES for line in complaints(service, services.systemd(service).text)] == []
    broken = services.systemd(WORKER).text.replace("Restart=always", "Restart=sometimes")
    assert "sometimes" in "".join(complaints(WORKER, broken)), "the check can fail"


def test_a_line_break_cannot_add_a_setting_to_the_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTRUST_CONTACT", "me\nExecStartPre=/bin/false")
    with pytest.raises(ParameterError, match="line break"):
        services.systemd(WORKER)


@pytest.mark.parametrize("pool", ["", "../x", "a b", "a/b", "a\nb"])
def test_a_pool_never_chooses_a_path(pool: str) -> None:
    with pytest.raises(ParameterError):
        Service.worker(pool)


@pytest.mark.parametrize(
    ("system", "file", "started", "stopped"),
    [
        ("linux", f".config/systemd/user/{WORKER.name}.service", "systemctl --user enable --now", "disable --now"),
        ("darwin", f"Library/LaunchAgents/{WORKER.name}.plist", "launchctl bootstrap", "bootout"),
    ],
)
def test_one_command_each_installs_and_removes(
    system: str, file: str, started: str, stopped: str, home: Path, recorder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    services.install(WORKER)
    assert (home / file).read_text() == services.installation(WORKER).text
    first = recorder.read_text()
    assert started in first
    services.install(WORKER)
    assert recorder.read_text() != first * 2, "installed again, it is stopped first"
    assert "stopped and removed" in services.uninstall(WORKER)[-1]
    assert not (home / file).exists()
    assert stopped in recorder.read_text().splitlines()[-1]
    assert services.uninstall(WORKER) == [f"{WORKER.name}: not installed"]
    monkeypatch.setenv("STATUS", "3")
    with pytest.raises(PrerequisiteError, match="status 3"):
        services.install(WORKER)


def test_where_the_system_has_no_services_the_file_is_written_and_it_says_so(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(home))
    assert "not started" in services.install(WORKER)[-1]
    assert services.installation(WORKER).file.exists()


def test_printing_installs_nothing(home: Path) -> None:
    command = [sys.executable, "-m", "deployments", "install-worker", "--pool", "mac-train", "--print"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout == services.installation(WORKER).text
    assert not services.installation(WORKER).file.exists()


def test_a_worker_of_another_machines_server_knows_its_address_and_password() -> None:
    services.work_for("https://office.example:4200/api")
    variables = server.worker_environment(services.known_access().port)
    assert variables["PREFECT_API_URL"] == "https://office.example:4200/api"
    assert variables[CLIENT_AUTH] == f"me:{SECRET}"
    with pytest.raises(ParameterError, match="uses the server at"):
        services.run_server()
