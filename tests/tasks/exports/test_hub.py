"""Uploads with the real client of the Hub, to a Hub on loopback."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from storage.errors import DistrustError
from tests.events import parse_event
from tests.tasks.exports import conftest
from tests.tasks.exports.test_export import ROOT, Specification

TOKEN = "hf_loopback"


class Hub(ThreadingHTTPServer):
    """The calls that an upload makes; keeps what it was sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Calls)
        self.created: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.tokens: set[str | None] = set()
        self.status = 200
        self.private = True
        self.before: list[str] = []
        """Files of an earlier upload."""
        self.deleted: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Calls(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        if "/tree/" in self.path:
            old = {"type": "file", "size": 1, "oid": "2" * 40}
            self.answer([{**old, "path": name} for name in self.server.before])
        else:
            self.answer({"id": "me/tiny", "sha": "0" * 40, "private": self.server.private, "siblings": [], "tags": []})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.server.tokens.add(self.headers["Authorization"])
        if self.path == "/api/repos/create":
            self.server.created.append(json.loads(body))
            self.answer({"url": f"{self.server.address}/me/tiny"})
        elif "/preupload/" in self.path:
            modes = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            self.answer({"files": modes})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "deletedFile":
                    self.server.deleted.append(line["value"]["path"])
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            address = f"{self.server.address}/me/tiny/commit/{'1' * 40}"
            self.answer({"success": True, "commitOid": "1" * 40, "commitUrl": address, "hookOutput": ""})
        else:
            self.answer({"errors": [], "warnings": []})

    def answer(self, content: Any) -> None:
        text = json.dumps(content).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def export(
    specification: Specification,
    hub: Hub | str,
    tmp_path: Path,
    token: str = TOKEN,
    dry_run: bool = False,
    name: str = "me/tiny",
) -> dict[str, Any]:
    """Run an export; return the last event that its parent would see."""
    parameters = {"hub_repository": name, "hub_dry_run": dry_run}
    with pytest.MonkeyPatch.context() as patched:  # the library reads these when it is imported
        patched.setattr(constants, "ENDPOINT", hub if isinstance(hub, str) else hub.address)
        patched.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        patched.setattr(constants, "HF_HUB_OFFLINE", False)
        patched.setenv("HF_TOKEN", token)
        try:
            found = conftest.export(specification, **parameters)
        except DistrustError as error:
            return {"event": "error", "kind": type(error).__name__, "message": str(error)}
    return {"event": "result", **found.model_dump(mode="json")}


def export_in_a_child(specification: Specification, hub: Hub, tmp_path: Path) -> list[dict[str, Any]]:
    """Run an export as its flow does; return its events, which do not hold the token."""
    path = tmp_path / "spec.json"
    parameters = {"hub_repository": "me/tiny", "hub_dry_run": False}
    path.write_text(json.dumps(specification | {"parameters": parameters}))
    environment = {**os.environ, "HF_ENDPOINT": hub.address, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "hf")}
    environment.pop("HF_HUB_OFFLINE", None)
    command = [sys.executable, "-m", "tasks.exports", str(path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert TOKEN not in done.stdout + done.stderr
    return [parse_event(line) for line in done.stdout.splitlines()]


def test_an_upload_sends_the_recorded_files_and_no_others(
    specification: Specification, hub: Hub, tmp_path: Path
) -> None:
    folder = Path(specification["export_folder"])
    hub.before = ["model-00001-of-00002.safetensors", "model.safetensors", "DISCUSSION.md"]
    *events, result = export_in_a_child(specification, hub, tmp_path)
    assert (result["event"], result["folder"]) == ("result", str(folder)), result
    assert {"hash", "fuse", "verify"} <= {event["stage"] for event in events if event["event"] == "progress"}
    assert result["hub"]["uploaded"] is True
    assert result["hub"]["address"].startswith(f"{hub.address}/me/tiny/commit/")
    assert hub.created[0]["visibility"] == "private"
    assert hub.deleted == ["model-00001-of-00002.safetensors"], "MLX would read it beside the new weights"
    assert hub.tokens == {f"Bearer {TOKEN}"}
    assert hub.files == {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "notes.txt").write_text("mine")
    hub.files = {}
    assert export(specification, hub, tmp_path)["hub"]["uploaded"] and "notes.txt" not in hub.files


@pytest.mark.parametrize(
    ("private", "status", "reachable", "kind", "message"),
    [
        (False, 200, True, "PrerequisiteError", "is public"),
        (True, 403, True, "PrerequisiteError", "refused me/tiny (status 403)"),
        (True, 200, False, "TransientError", "the Hub cannot be reached (ConnectError); export again"),
    ],
)
def test_a_hub_that_does_not_take_it_gets_nothing_and_the_export_is_kept(
    specification: Specification,
    hub: Hub,
    tmp_path: Path,
    private: bool,
    status: int,
    reachable: bool,
    kind: str,
    message: str,
) -> None:
    hub.private, hub.status = private, status
    failure = export(specification, hub if reachable else "http://127.0.0.1:9", tmp_path)
    assert (failure["event"], failure["kind"]) == ("error", kind) and message in failure["message"], failure
    assert hub.files == {}
    assert (Path(specification["export_folder"]) / "export.json").is_file()


def test_an_approval_holds_for_the_content_that_was_shown(
    specification: Specification, hub: Hub, tmp_path: Path
) -> None:
    record = export(specification, hub, tmp_path, token="", dry_run=True)["hub"]
    assert (record["repository"], record["uploaded"], record["address"]) == ("me/tiny", False, None)
    assert {"model.safetensors", "README.md", "export.json"} <= set(record["files"])
    shown = record["digest"]
    run = Path(specification["run_folder"]) / "run.json"
    run.write_text(run.read_text().replace("1234", "9999"))  # which the card shows
    other = export(specification | {"approved": shown}, hub, tmp_path)["hub"]
    assert (other["uploaded"], other["address"], hub.created, hub.files) == (False, None, [], {})
    assert other["digest"] != shown
    assert export(specification | {"approved": other["digest"]}, hub, tmp_path)["hub"]["uploaded"] is True
    assert b"9999" in hub.files["README.md"]


@pytest.mark.parametrize(
    ("name", "token", "message"),
    [
        ("me/tiny.git", TOKEN, "'me/tiny.git' is not a name that the Hub accepts"),
        ("../../elsewhere", TOKEN, "hub_repository"),
        ("me/tiny", "", "needs a token with write access"),
    ],
)
def test_what_cannot_be_uploaded_is_refused_before_any_work(
    specification: Specification, hub: Hub, tmp_path: Path, name: str, token: str, message: str
) -> None:
    failure = export(specification, hub, tmp_path, token, name=name)
    assert failure["event"] == "error" and message in failure["message"]
    assert not Path(specification["export_folder"]).exists()
