"""Services of launchd and systemd: what is written, that the system understands it, and that it goes away again."""

from __future__ import annotations

import plistlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deployments import processes, server, services
from deployments.access import CLIENT_AUTH, Access, recall, remember
from deployments.services import STOP_SECONDS, Service
from storage.errors import ParameterError, PrerequisiteError
from storage.events import ORPHAN_GRACE_SECONDS

ROOT = Path(__file__).resolve().parents[2]
SECRET = "hunter2-of-this-test"
SERVICES = [Service.worker("mac-train"), Service.worker("data"), Service.of_server()]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder of the test's own, with a known server whose password is `SECRET`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.setenv("DISTRUST_STORE", '/srv/a "corpus" of 100% $HOME')
    monkeypatch.setenv("HF_TOKEN", f"hf_{SECRET}")
    monkeypatch.setenv(CLIENT_AUTH, f"me:{SECRET}")
    remember(processes.home(), Access(auth=f"me:{SECRET}"))
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
    plist = plistlib.loads(services.launchd_plist(service))
    assert plist["Label"] == service.name
    assert plist["ProgramArguments"] == [sys.executable, "-m", "deployments", *service.arguments]
    assert plist["WorkingDirectory"] == str(ROOT)
    assert plist["KeepAlive"] is True and plist["RunAtLoad"] is True
    assert plist["ThrottleInterval"] >= 10
    assert plist["ExitTimeOut"] == STOP_SECONDS > ORPHAN_GRACE_SECONDS + 10, "the system never ends a training first"
    assert plist["AbandonProcessGroup"] is True
    assert plist["Umask"] == 0o077
    assert Path(plist["StandardOutPath"]).parent == processes.home()
    assert plist["EnvironmentVariables"]["DISTRUST_STORE"] == '/srv/a "corpus" of 100% $HOME'


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_no_secret_stands_in_a_service(service: Service) -> None:
    assert SECRET not in services.launchd_plist(service).decode()
    assert SECRET not in services.systemd_unit(service)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze on this machine")
@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_systemd_understands_the_unit(service: Service, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home))
    file = home / f"{service.name}.service"
    file.write_text(services.systemd_unit(service))
    answer = subprocess.run(
        ["systemd-analyze", "verify", "--user", "--recursive-errors=no", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    complaints = [line for line in answer.stderr.splitlines() if service.name in line]
    assert not complaints
    file.write_text(services.systemd_unit(service).replace("Restart=always", "Restart=sometimes"))
    answer = subprocess.run(
        ["systemd-analyze", "verify", "--user", str(file)], capture_output=True, text=True, check=False
    )
    assert "sometimes" in answer.stderr, "the check can fail"


def test_a_line_break_cannot_smuggle_a_setting_into_the_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTRUST_CONTACT", "me\nExecStartPre=/bin/false")
    with pytest.raises(ParameterError, match="line break"):
        services.systemd_unit(SERVICES[0])


@pytest.mark.parametrize("pool", ["", "../x", "a b", "a/b", "a\nb"])
def test_a_pool_never_chooses_a_path(pool: str) -> None:
    with pytest.raises(ParameterError):
        Service.worker(pool)


@pytest.mark.parametrize("system", ["linux", "darwin"])
def test_installed_and_removed_by_one_command_each(
    system: str, home: Path, recorder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    service = Service.worker("mac-train")
    folder = "Library/LaunchAgents" if system == "darwin" else ".config/systemd/user"
    file = home / folder / f"{service.name}.{'plist' if system == 'darwin' else 'service'}"

    services.install(service)
    assert file.read_text() == services.describe(service)
    first = recorder.read_text()
    assert ("launchctl bootstrap" if system == "darwin" else f"systemctl --user enable --now {service.name}") in first
    services.install(service)
    assert recorder.read_text() != first * 2, "installed again, it is stopped first"
    assert "stopped and removed" in services.uninstall(service)[-1]
    assert not file.exists()
    assert ("bootout" if system == "darwin" else "disable --now") in recorder.read_text().splitlines()[-1]
    assert services.uninstall(service) == [f"{service.name}: not installed"]


def test_where_the_system_has_no_services_the_file_is_written_and_it_says_so(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(home))
    assert "not started" in services.install(Service.of_server())[-1]
    assert services.service_file(Service.of_server()).exists()


def test_a_service_that_does_not_start_is_an_error(home: Path, recorder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATUS", "3")
    with pytest.raises(PrerequisiteError, match="status 3"):
        services.install(Service.worker("data"))


def test_printing_installs_nothing(home: Path) -> None:
    command = [sys.executable, "-m", "deployments", "install-worker", "--pool", "mac-train", "--print"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout == services.describe(Service.worker("mac-train"))
    assert not services.service_file(Service.worker("mac-train")).exists()


def test_a_worker_of_another_machines_server_knows_its_address_and_password(home: Path) -> None:
    services.work_for("https://office.example:4200/api")
    access = recall(processes.home())
    assert access is not None and access.auth == f"me:{SECRET}"
    variables = server.worker_environment(access.port)
    assert variables["PREFECT_API_URL"] == "https://office.example:4200/api"
    assert variables[CLIENT_AUTH] == f"me:{SECRET}"
    with pytest.raises(ParameterError, match="works for the server"):
        services.run_server()
