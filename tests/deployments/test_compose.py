"""The compose file says what `make up` does; containers cannot be run here, so its form is all that is tested."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import prefect
import pytest
import yaml

from deployments.__main__ import parser
from deployments.access import AUTH, DATABASE, Access
from deployments.server import SERVER_SETTINGS, server_command
from storage.own_origin import NAMES, OwnOrigin, further_names

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "deployments" / "compose.yaml"
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


def test_the_containers_of_this_machine_do_what_make_up_does() -> None:
    content = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))
    services, server = content["services"], content["services"]["server"]
    assert {name: server["environment"][name] for name in SERVER_SETTINGS} == SERVER_SETTINGS
    image = (ROOT / "Dockerfile").read_text("utf-8")
    started = ["python", *server_command(Access(host="0.0.0.0"))[1:]]
    assert json.loads(image.partition("CMD ")[2]) == started and "\nUSER 1000\n" in image
    assert [port for service in services.values() for port in service.get("ports", ())] == ["127.0.0.1:4200:4200"]
    name = server["environment"][NAMES].partition("$")[0].strip(",")
    for service in services.values():
        assert "" not in service["environment"].values(), "an empty password shuts everybody out"
        assert not any(str(value).startswith("${") for value in service["environment"].values())
        assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"]
        assert service is server or service["environment"]["PREFECT_API_URL"] == f"http://{name}:4200/api"
        kept = {volume.partition(":")[0] for volume in service.get("volumes", ())}
        assert kept <= set(content["volumes"])
        if service.get("command"):
            assert parser().parse_args(service["command"][3:]).server in ("", f"http://{name}:4200/api")


def test_the_server_of_the_containers_answers_its_workers_and_no_other_name(monkeypatch: pytest.MonkeyPatch) -> None:
    content = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))
    monkeypatch.setenv(NAMES, content["services"]["server"]["environment"][NAMES].partition("$")[0])
    own = OwnOrigin("0.0.0.0", 4200, further_names("0.0.0.0"))
    known = ("server", "127.0.0.1", "localhost")
    assert not any(own.refusal("GET", [("Host", f"{name}:4200")]) for name in known)
    assert own.refusal("GET", [("Host", "rebound.example:4200")])


def test_a_release_has_the_notes_of_its_version() -> None:
    notes = [
        subprocess.run([ROOT / ".ci/release-notes", tag], capture_output=True, text=True) for tag in ("v0.1.0", "v9")
    ]
    assert notes[0].stdout.startswith("- ") and "## " not in notes[0].stdout
    assert notes[0].returncode == 0 and notes[1].returncode == 1
