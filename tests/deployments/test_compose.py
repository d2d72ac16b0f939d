"""The compose file says what `make up` does; containers cannot be run here, so its form is all that is tested."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import prefect
import yaml

from deployments.access import AUTH, DATABASE, Access
from deployments.server import SERVER_SETTINGS, server_command
from storage.own_origin import NAMES

FILE = Path(__file__).resolve().parents[2] / "deployments" / "compose.yaml"
CONTENT: dict[str, Any] = yaml.safe_load(FILE.read_text("utf-8"))
SERVICES: dict[str, Any] = CONTENT["services"]


def test_the_server_has_the_settings_of_make_up() -> None:
    environment = SERVICES["server"]["environment"]
    assert {name: environment[name] for name in SERVER_SETTINGS} == SERVER_SETTINGS
    assert set(environment) == {*SERVER_SETTINGS, AUTH, DATABASE, NAMES}
    assert Access(database=environment[DATABASE]).server_environment()
    assert SERVICES["server"]["image"].startswith(f"prefecthq/prefect:{prefect.__version__}-")


def test_only_loopback_is_published_no_password_is_written_down_and_records_outlive_their_container() -> None:
    assert SERVICES["server"]["environment"][AUTH].startswith("${" + AUTH + ":?")
    assert SERVICES["postgres"]["environment"]["POSTGRES_PASSWORD"].startswith("${POSTGRES_PASSWORD:?")
    assert "ports" not in SERVICES["postgres"]
    assert all(port.startswith("127.0.0.1:") for port in SERVICES["server"]["ports"])
    kept = {volume.split(":")[0] for service in SERVICES.values() for volume in service["volumes"]}
    assert set(CONTENT["volumes"]) == {name for name in kept if not name.startswith(".")} == {"postgres"}


def test_the_guard_runs_in_an_image_that_has_prefect_alone() -> None:
    service = SERVICES["server"]
    assert service["command"].split() == ["python", *server_command(Access(host="0.0.0.0"))[1:]]
    folders = [volume.split(":") for volume in service["volumes"] if volume.startswith(".")]
    assert all(mode == "ro" for _, _, mode in folders)
    seen = {
        Path(inside).relative_to(service["working_dir"]): (FILE.parent / outside).resolve()
        for outside, inside, mode in folders
    }
    assert seen == {Path(name): FILE.parents[1] / name for name in ("deployments", "storage")}
    code = (
        "import sys, pydantic; known = {*sys.modules, *sys.stdlib_module_names}; import deployments.prefect_server\n"
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - known} - known))"
    )
    command = [sys.executable, "-c", code]
    answer = subprocess.run(command, cwd=FILE.parents[1], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["deployments", "storage"], "beside what Prefect brings"
