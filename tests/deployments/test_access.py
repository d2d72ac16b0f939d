"""Who may reach the server, and where passwords are kept."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from prefect.settings import Settings

from deployments import processes, server
from deployments.__main__ import main
from deployments.access import AUTH, CLIENT_AUTH, DATABASE, RECORD, Access, from_environment, read_access
from storage.errors import ParameterError

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
        *({"auth": auth} for auth in ("no-colon", ":only-password", "only-user:")),
        *({"database": url} for url in ("mysql://host/name", "postgresql://host/name")),
        *({"url": url} for url in ("file:///etc/passwd", "host:4200")),
    ],
)
def test_a_value_of_the_wrong_form_is_refused_and_a_secret_is_not_repeated(wrong: dict[str, str]) -> None:
    with pytest.raises(ParameterError) as refused:
        Access(**wrong)
    assert "url" in wrong or not any(value in str(refused.value) for value in wrong.values())


@pytest.mark.parametrize(
    ("host", "exposed", "url"),
    [
        ("127.0.0.1", False, "http://127.0.0.1:4300/api"),
        ("localhost", False, "http://localhost:4300/api"),
        ("::1", False, "http://[::1]:4300/api"),
        ("0.0.0.0", True, "http://127.0.0.1:4300/api"),
        ("192.168.1.20", True, "http://192.168.1.20:4300/api"),
    ],
)
def test_another_address_than_loopback_needs_a_password(host: str, exposed: bool, url: str) -> None:
    assert Access(host=host, port=4300).api_url == url
    Access(host=host, auth="me:secret").require_loopback()
    if exposed:
        with pytest.raises(ParameterError, match="AUTH=user:password"):
            Access(host=host).require_loopback()
    else:
        Access(host=host).require_loopback()


def test_only_the_owner_reads_the_record_and_no_link_is_followed(home: Path, tmp_path: Path) -> None:
    access = Access(port=4301, auth=f"me:{SECRET}", database=DATABASE_URL)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("mine")
    for link in (RECORD, f"{RECORD}.new"):
        (home / link).unlink(missing_ok=True)
        (home / link).symlink_to(elsewhere)
        access.save(home)
        assert read_access(home) == access and elsewhere.read_text() == "mine"
        assert stat.S_IMODE((home / RECORD).stat().st_mode) == 0o600
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert SECRET not in repr(access)
    for broken in ("", "{", "[]", '{"door": 1}', '{"auth": "nocolon"}'):
        (home / RECORD).write_text(broken)
        assert read_access(home) is None


def test_the_server_gets_password_and_database_and_its_clients_the_password_alone(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(AUTH, f"me:{SECRET}")
    monkeypatch.setenv(DATABASE, DATABASE_URL)
    access = from_environment(4302)
    access.save(home)
    assert server.server_environment(access).items() >= {AUTH: f"me:{SECRET}", DATABASE: DATABASE_URL}.items()
    worker = server.worker_environment(4302)
    patience = {"PREFECT_CLIENT_MAX_RETRIES": "8", "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500"}
    assert worker.items() >= {CLIENT_AUTH: f"me:{SECRET}", **patience}.items()
    assert AUTH not in worker and DATABASE not in worker
    for command in (server.server_command(access), server.worker_command("one", "data")):
        assert SECRET not in " ".join(command)


def test_prefect_reads_the_settings_of_a_server_that_runs_for_months(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A misspelt variable would be ignored silently."""
    for name, value in (server.server_environment(Access(database=DATABASE_URL)) | server.SERVER_SETTINGS).items():
        monkeypatch.setenv(name, value)
    found = Settings().server
    services = found.services
    assert services.db_vacuum.enabled == {"events", "flow_runs"} and services.db_vacuum.retention_period.days == 90
    assert (services.task_run_recorder.batch_size, services.event_persister.batch_size) == (100, 200)
    assert found.api.csrf_protection_enabled and not found.analytics_enabled
    assert found.database.connection_url is not None
    assert found.database.connection_url.get_secret_value() == DATABASE_URL


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
def test_the_command_line_says_what_to_do(
    home: Path,
    arguments: list[str],
    variables: dict[str, str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.argv", ["deployments", *arguments])
    assert main() == 1
    assert said in capsys.readouterr().err
    assert not (home / "server.pid").exists()
