"""A Hub on loopback that answers whatever a test wants, and a process that asks it through the real libraries."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
COMMIT = "b" * 40

# The Hub's libraries read their endpoint when they are imported, so the asking happens in one process of its own,
# repository after repository. Pauses are not waited for.
ASKER = """
import asyncio, json, sys, time
time.sleep = lambda seconds: None
from storage.errors import DistrustError
from tasks.lora.fetch import fetch_model
from tasks.sources.catalogue import SourceSpec
from tasks.sources.connection import Archives, Connection, Pace
from tasks.sources.opening import open_source
from tasks.sources.web import Web

async def read(repository):
    fields = {"name": "hub", "archive": "hugging_face", "repo": repository, "source_type": "wiki", "trivium": "grammar"}
    archives = Archives(Connection(), Pace(attempts=2), Web())
    async with open_source(SourceSpec.model_validate(fields), archives) as source:
        items = await source.plan(2)
        found = [outcome async for outcome in source.fetch(items[0])]
        return {"revision": items[0].data["revision"], "documents": len(found)}

print("READY", flush=True)
for line in sys.stdin:
    kind, repository = line.split()
    try:
        if kind == "model":
            answer = {"folder": str(fetch_model(repository, lambda line: None))}
        else:
            answer = asyncio.run(read(repository))
    except DistrustError as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    except BaseException as error:
        answer = {"defect": repr(error)}
    print("ANSWER" + json.dumps(answer), flush=True)
"""


class AnsweringHub:
    """Answers every repository alike.

    Attributes:
        info: What is said about a repository.
        tree: What is said about its files.
        commit: The commit that downloads are said to be of.
        content: The bytes of every file.
        asked: How many requests there were since `ask` began.
    """

    def __init__(self, home: Path) -> None:
        self.info: Any = {}
        self.tree: Any = []
        self.commit = COMMIT
        self.content = b"{}"
        self.asked = 0
        self._number = 0
        self._home = home
        self._asker: subprocess.Popen[str] | None = None

    def ask(self, kind: str) -> dict[str, Any]:
        """Fetch the next repository, a "model" or a "dataset", and return what became of it."""
        assert self._asker is not None and self._asker.stdin is not None
        self.asked = 0
        self._number += 1
        self._asker.stdin.write(f"{kind} org/name-{self._number}\n")
        self._asker.stdin.flush()
        answer: dict[str, Any] = json.loads(self._line("ANSWER"))
        return answer

    def _line(self, start: str) -> str:
        assert self._asker is not None and self._asker.stdout is not None
        for line in self._asker.stdout:
            if line.startswith(start):
                return line.removeprefix(start)
        raise AssertionError("the asking process ended")

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listen, and keep the asking process."""
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.answer()

            def do_HEAD(self) -> None:
                self.answer()

            def answer(self) -> None:
                hub.asked += 1
                is_api = self.path.startswith("/api/")
                body = json.dumps(hub.tree if "/tree/" in self.path else hub.info).encode() if is_api else hub.content
                self.send_response(200)
                self.send_header("Content-Type", "application/json" if is_api else "application/octet-stream")
                self.send_header("Content-Length", str(len(body)))
                self.send_header("X-Repo-Commit", hub.commit)
                self.send_header("ETag", '"etag"')
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
            environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
            environment |= {
                "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
                "HF_HOME": str(self._home),
                "HF_HUB_DISABLE_TELEMETRY": "1",
                "HF_HUB_DISABLE_XET": "1",
                "HF_HUB_DISABLE_PROGRESS_BARS": "1",
                "PYTHONPATH": str(ROOT),
                "NO_PROXY": "127.0.0.1",
            }
            command = [sys.executable, "-c", ASKER]
            pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
            with subprocess.Popen(
                command, env=environment, stdin=pipe, stdout=pipe, stderr=nowhere, text=True, cwd=self._home
            ) as self._asker:
                self._line("READY")
                yield
                assert self._asker.stdin is not None
                self._asker.stdin.close()
                self._asker.wait(30)
            server.shutdown()
