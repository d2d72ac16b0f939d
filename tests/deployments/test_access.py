"""Who may reach the server, and where what opens it is kept."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from deployments import processes, server
from deployments.access import AUTH, CLIENT_AUTH, DATABASE, RECORD, Access, from_environment, recall, remember
from storage.errors import ParameterError

ROOT = Path(__file__).resolve().parents[2]
SECRET = "hunter2-of-this-test"
DATABASE_URL = f"postgresql+asyncpg://prefect:{SECRET}@127.0.0.1/prefect"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.delenv(AUTH, raising=False)
    monkeypatch.delenv(DATABASE, raising=False)
    return processes.home()


@pytest.mark.parametrize(
    "wrong",
    [
        {"auth": "no-colon"},
        {"auth": ":only-password"},
        {"auth": "only-user:"},
        {"database": "mysql://host/name"},
        {"database": "postgresql://host/name"},
        {"url": "file:///etc/passwd"},
        {"url": "host:4200"},
    ],
)
def test_what_cannot_be_meant_is_refused_without_being_repeated(wrong: dict[str, str]) -> None:
    with pytest.raises(ParameterError) as refused:
        Access(**wrong)
    assert "url" in wrong or not any(value in str(refused.value) for value in wrong.values())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.20", "mac.local"])
def test_another_address_than_loopback_needs_a_password_or_a_decision(host: str) -> None:
    with pytest.raises(ParameterError, match="AUTH=user:password"):
        Access(host=host).refuse_open_door(accepted=False)
    Access(host=host).refuse_open_door(accepted=True)
    Access(host=host, auth="me:secret").refuse_open_door(accepted=False)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_loopback_needs_none(host: str) -> None:
    Access(host=host).refuse_open_door(accepted=False)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:4300/api"),
        ("0.0.0.0", "http://127.0.0.1:4300/api"),
        ("::1", "http://[::1]:4300/api"),
        ("192.168.1.20", "http://192.168.1.20:4300/api"),
    ],
)
def test_address_of_the_api(host: str, url: str) -> None:
    assert Access(host=host, port=4300).api_url == url


def test_the_record_is_its_owners_alone_and_survives_what_cannot_be_read(home: Path) -> None:
    access = Access(port=4301, auth=f"me:{SECRET}", database=DATABASE_URL)
    for _ in range(2):
        remember(home, access)
        assert recall(home) == access
        assert stat.S_IMODE((home / RECORD).stat().st_mode) == 0o600
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert SECRET not in repr(access)
    for broken in ("", "{", "[]", '{"door": 1}', '{"auth": "nocolon"}'):
        (home / RECORD).write_text(broken)
        assert recall(home) is None


def test_a_link_in_place_of_the_record_is_not_written_through(home: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("mine")
    for name in (RECORD, f"{RECORD}.new"):
        (home / name).unlink(missing_ok=True)
        (home / name).symlink_to(elsewhere)
        remember(home, Access())
        assert elsewhere.read_text() == "mine"


def test_the_server_gets_password_and_database_and_its_clients_the_password_alone(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(AUTH, f"me:{SECRET}")
    monkeypatch.setenv(DATABASE, DATABASE_URL)
    access = from_environment(4302)
    remember(home, access)
    started = server.server_environment(access)
    assert started[AUTH] == f"me:{SECRET}" and started[DATABASE] == DATABASE_URL
    worker = server.worker_environment(4302)
    assert worker[CLIENT_AUTH] == f"me:{SECRET}"
    assert worker["PREFECT_CLIENT_MAX_RETRIES"] == "8"
    assert worker["PREFECT_CLIENT_RETRY_EXTRA_CODES"] == "500"
    assert AUTH not in worker and DATABASE not in worker
    for command in (server.server_command(access), server.worker_command("one", "data")):
        assert SECRET not in " ".join(command)


@pytest.mark.parametrize("database", ["", DATABASE_URL])
def test_settings_of_a_server_that_runs_for_months(home: Path, database: str) -> None:
    """Read by Prefect itself: a misspelt variable would be ignored silently."""
    environment = {
        **server.server_environment(Access(database=database)),
        "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED": "",
    }
    environment = {key: value for key, value in environment.items() if value}
    environment["PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED"] = server.SERVER_SETTINGS[
        "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED"
    ]
    code = (
        "from prefect.settings import Settings; s = Settings().server; v = s.services\n"
        "print(sorted(v.db_vacuum.enabled), v.db_vacuum.retention_period.days, v.task_run_recorder.batch_size,\n"
        "      v.event_persister.batch_size, s.api.csrf_protection_enabled, s.analytics_enabled,\n"
        "      s.database.connection_url.get_secret_value() if s.database.connection_url else '')"
    )
    answer = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    *values, found = answer.stdout.rstrip("\n").rsplit(" ", 1)
    assert values == ["['events', 'flow_runs'] 90 100 200 True False"]
    assert found == database or (not database and found.startswith("sqlite+aiosqlite:"))


@pytest.mark.parametrize(
    ("arguments", "variables", "said"),
    [
        (["up", "--host", "0.0.0.0"], {}, "AUTH=user:password"),
        (["up"], {AUTH: "nocolon"}, "user:password"),
        (["up"], {DATABASE: "mysql://x/y"}, "postgresql+asyncpg"),
        (["install-worker", "--pool", "data"], {}, "no server is known"),
        (["run-server"], {}, "no server is known"),
    ],
)
def test_the_command_line_says_what_to_mend(
    home: Path, arguments: list[str], variables: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    command = [sys.executable, "-m", "deployments", *arguments]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.returncode == 1
    assert said in answer.stderr and "Traceback" not in answer.stderr
    assert not (home / "server.pid").exists()
