"""A Hub on loopback with one model: it can break off in the middle of a file, or send altered bytes."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

REVISION = "0123456789abcdef0123456789abcdef01234567"
REFUSALS = {"gated": (403, "GatedRepo"), "no": (404, "RepoNotFound")}


class OneModel:
    """The files of a folder as repository ``tiny/model``, and what was asked of them.

    ``gated/model`` is refused, ``no/such-model`` is missing, and on ``broken/model`` the connection is closed.
    """

    def __init__(self, folder: Path) -> None:
        self.files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        self.sizes = {name: len(content) for name, content in self.files.items()}
        self.digests = {name: hashlib.sha256(content).hexdigest() for name, content in self.files.items()}
        self.break_off_after: int | None = None
        self.asked: list[tuple[str, str]] = []

    def info(self) -> dict[str, Any]:
        siblings = [{"rfilename": name, "size": self.sizes[name]} | self._lfs(name, "sha256") for name in self.files]
        return {"id": "tiny/model", "modelId": "tiny/model", "sha": REVISION, "siblings": siblings, "tags": []}

    def tree(self) -> list[dict[str, Any]]:
        return [
            {"type": "file", "path": name, "size": self.sizes[name], "oid": self.digests[name][:40]}
            | self._lfs(name, "oid")
            for name in self.files
        ]

    def _lfs(self, name: str, key: str) -> dict[str, Any]:
        pointer = {key: self.digests[name], "size": self.sizes[name], "pointerSize": 100}
        return {"lfs": pointer} if large(name) else {}


def large(name: str) -> bool:
    return name.endswith((".safetensors", ".bin"))


@contextmanager
def serve(hub: OneModel) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            owner = self.path.removeprefix("/api/models").split("/")[1]
            name = self.path.split(f"/resolve/{REVISION}/")[-1]
            if owner == "broken":
                self.close_connection = True
            elif self.path.startswith("/api/models/tiny/model"):
                self.send(json.dumps(hub.tree() if "/tree/" in self.path else hub.info()).encode(), {}, body=body)
            elif owner in REFUSALS or name not in hub.files:
                status, code = REFUSALS.get(owner, (404, "EntryNotFound"))
                self.send(b"", {"X-Error-Code": code}, body=body, status=status)
            else:
                wanted = self.headers.get("Range", "")
                if body:
                    hub.asked.append((name, wanted))
                start = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
                headers = {"X-Repo-Commit": REVISION, "ETag": f'"{hub.digests[name]}"', "Accept-Ranges": "bytes"}
                if large(name):
                    headers |= {"X-Linked-Etag": f'"{hub.digests[name]}"', "X-Linked-Size": str(hub.sizes[name])}
                content = hub.files[name][start:]
                broken = large(name) and not wanted and hub.break_off_after
                self.send(content, headers, body=body, status=206 if wanted else 200, only=broken or len(content))

        def send(
            self, content: bytes, headers: dict[str, str], *, body: bool, status: int = 200, only: int | None = None
        ) -> None:
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Type", "application/octet-stream" if headers else "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body:
                self.close_connection |= only is not None and only < len(content)
                self.wfile.write(content[:only])

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
