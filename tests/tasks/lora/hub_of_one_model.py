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


class OneModel:
    """The files of a folder as repository ``tiny/model``, and what was asked of them."""

    def __init__(self, folder: Path) -> None:
        self.files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        self.sizes = {name: len(content) for name, content in self.files.items()}
        self.digests = {name: hashlib.sha256(content).hexdigest() for name, content in self.files.items()}
        self.break_off_after: int | None = None
        self.asked: list[tuple[str, str]] = []
        self.sent = 0

    def info(self) -> dict[str, Any]:
        siblings = [
            {"rfilename": name, "size": self.sizes[name]}
            | (
                {"lfs": {"sha256": self.digests[name], "size": self.sizes[name], "pointerSize": 100}}
                if large(name)
                else {}
            )
            for name in self.files
        ]
        return {"id": "tiny/model", "modelId": "tiny/model", "sha": REVISION, "siblings": siblings, "tags": []}

    def tree(self) -> list[dict[str, Any]]:
        return [
            {"type": "file", "path": name, "size": self.sizes[name], "oid": self.digests[name][:40]}
            | (
                {"lfs": {"oid": self.digests[name], "size": self.sizes[name], "pointerSize": 100}}
                if large(name)
                else {}
            )
            for name in self.files
        ]


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
            if self.path.startswith("/api/models/tiny/model"):
                answer = hub.tree() if "/tree/" in self.path else hub.info()
                self.send(json.dumps(answer).encode(), {}, body=body)
                return
            name = self.path.split(f"/resolve/{REVISION}/")[-1]
            if name not in hub.files:
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            wanted = self.headers.get("Range", "")
            if body:
                hub.asked.append((name, wanted))
            start = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
            headers = {"X-Repo-Commit": REVISION, "ETag": f'"{hub.digests[name]}"', "Accept-Ranges": "bytes"}
            if large(name):
                headers |= {"X-Linked-Etag": f'"{hub.digests[name]}"', "X-Linked-Size": str(hub.sizes[name])}
            self.send(hub.files[name][start:], headers, body=body, partial=bool(wanted), large=large(name))

        def send(
            self, content: bytes, headers: dict[str, str], *, body: bool, partial: bool = False, large: bool = False
        ) -> None:
            self.send_response(206 if partial else 200)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Type", "application/json" if not headers else "application/octet-stream")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if not body:
                return
            if large and hub.break_off_after is not None and not partial:
                content = content[: hub.break_off_after]
                self.close_connection = True
            self.wfile.write(content)
            hub.sent += len(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
