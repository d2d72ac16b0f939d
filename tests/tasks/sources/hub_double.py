"""A Hub on loopback over the files of a folder, and a process that reads it through the real libraries."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer, unused_port

COMMIT = "a" * 40
CONVERTED = "c" * 40
ROOT = Path(__file__).resolve().parents[3]

# The Hub's libraries read their endpoint when they are imported, which takes seconds: one process imports them, and a
# fork of it runs each list of commands. There, pauses are written down and not waited for. Each part of a command is
# read by a source opened anew over the same workspace, as after a restart; a command with "die" ends the fork at once.
READER = """
import asyncio, datasets, huggingface_hub, json, os, resource, shutil, sys, time
slept = []
time.sleep = slept.append
from pathlib import Path
from tasks.sources.catalogue import SourceSpec
from tasks.sources.connection import Archives, Connection, Pace
from tasks.sources.opening import open_source
from tasks.sources.source import Reject
from tasks.sources.pace import Clock
from tasks.sources.web import Web
from storage.errors import DistrustError

class Written(Clock):
    now = 0.0
    def time(self):
        return self.now
    async def sleep(self, seconds):
        slept.append(seconds)
        self.now += seconds

async def read(command):
    spec = SourceSpec.model_validate(command["fields"])
    workspace = Path(command["workspace"]) if "workspace" in command else None
    found = {"ids": [], "texts": [], "reasons": {}, "details": [], "items": []}
    for begin, end in command.get("parts", [[0, None]]):
        web = Web(clock=Written(), patience_seconds=command.get("patience", 3600.0))
        archives = Archives(Connection.from_environment(), Pace(), web)
        source = await open_source(spec, archives, workspace).__aenter__()
        if command.get("count"):
            found["count"] = await source.count()
            continue
        items = await source.plan(command.get("limit", 10))
        found["items"] = [item.data for item in items]
        for item in items[begin:end]:
            async for outcome in source.fetch(item):
                if isinstance(outcome, Reject):
                    found["reasons"][outcome.reason] = found["reasons"].get(outcome.reason, 0) + 1
                    found["details"] = (found["details"] + [outcome.detail])[:20]
                else:
                    found["ids"].append(outcome.id.partition(":")[2])
                    found["texts"].append(outcome.text[:100])
        if command.get("die"):
            os._exit(9)
        await source.aclose()
    return found

def run(commands):
    results = []
    for command in commands:
        slept.clear()
        try:
            result = asyncio.run(read(command))
        except DistrustError as error:
            result = {"error": type(error).__name__, "message": str(error),
                      "pause": getattr(error, "retry_after_seconds", None)}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        results.append({**result, "slept": list(slept), "peak": peak})
    return results

for line in sys.stdin:
    shutil.rmtree(os.environ["HF_HOME"], ignore_errors=True)
    if (child := os.fork()) == 0:
        print("RESULT" + json.dumps(run(json.loads(line))), flush=True)
        os._exit(0)
    print("EXIT", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def make_fields(name: str = "hub", **fields: Any) -> dict[str, Any]:
    """Make the fields of a catalogue entry that reads the double's dataset."""
    fields = {"repo": "org/ds", "source_type": "wiki", "trivium": "grammar", **fields}
    return {"name": name, "archive": "hugging_face", **fields}


class Hub:
    """The part of the Hub that streaming needs: one dataset per folder below `root`, ``org/<name of the folder>``.

    Attributes:
        fetched: Bytes sent of each file, as ``name/path``.
        faults: For a file, or "info" for the look-up, what goes wrong at its next requests: a status, a status with
            headers, or "cut".
        gated: Datasets that want their terms accepted first, and the status that says so.
        refused: Datasets of which nothing is shown to this client, and the status and headers that say so.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.fetched: Counter[str] = Counter()
        self.revisions: set[str] = set()
        self.faults: dict[str, list[Any]] = {}
        self.gated: dict[str, int] = {}
        self.cards: dict[str, Any] = {}
        self.refused: dict[str, tuple[int, dict[str, str]]] = {}

    def routes(self) -> dict[str, Any]:
        return {
            "/api/datasets/org/{name}": self.info,
            "/api/datasets/org/{name}/revision/{revision:.*}": self.info,
            "/api/datasets/org/{name}/tree/{revision}{path:.*}": self.tree,
            "/datasets/org/{name}/resolve/{revision}/{path:.*}": self.file,
            "/{anything:.*}": self.absent,
        }

    async def absent(self, request: web.Request) -> web.StreamResponse:
        known = (self.root / request.match_info.get("name", "-")).is_dir()
        code = "EntryNotFound" if known else "RepoNotFound"
        return web.json_response({"error": "not found"}, status=404, headers={"X-Error-Code": code})

    def _folder(self, request: web.Request) -> Path:
        """Return the files of the asked revision; those of refs/convert/parquet lie in a folder of their own."""
        name, revision = request.match_info["name"], request.match_info.get("revision", "")
        if name in self.refused:
            status, headers = self.refused[name]
            raise _refusal(status, headers)
        self.revisions.add(revision)
        converted = revision in ("refs/convert/parquet", "refs%2Fconvert%2Fparquet", CONVERTED)
        return self.root / (f"{name}.converted" if converted else name)

    async def info(self, request: web.Request) -> web.StreamResponse:
        folder = self._folder(request)
        if not folder.is_dir():
            return await self.absent(request)
        name = request.match_info["name"]
        if self.faults.get(f"{name}/info"):
            return await self._fail(request, self.faults[f"{name}/info"].pop(0), b"{}")
        files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
        return web.json_response(
            {
                "id": f"org/{name}",
                "_id": "1",
                "sha": CONVERTED if folder.name.endswith(".converted") else COMMIT,
                "private": False,
                "gated": "manual" if name in self.gated else False,
                "disabled": False,
                "tags": [],
                "downloads": 0,
                "likes": 0,
                "lastModified": "2026-01-01T00:00:00.000Z",
                "createdAt": "2026-01-01T00:00:00.000Z",
                "siblings": [{"rfilename": file} for file in files],
                "cardData": self.cards.get(name, {}),
            }
        )

    async def tree(self, request: web.Request) -> web.StreamResponse:
        folder = self._folder(request)
        below = folder / request.match_info["path"].strip("/")
        if not below.is_dir():
            return await self.absent(request)
        deep = request.query.get("recursive", "false").lower() in ("true", "1")
        entries = [
            {
                "type": "file" if path.is_file() else "directory",
                "oid": hashlib.sha1(path.name.encode(), usedforsecurity=False).hexdigest(),
                "size": path.stat().st_size if path.is_file() else 0,
                "path": path.relative_to(folder).as_posix(),
            }
            for path in sorted(below.rglob("*") if deep else below.iterdir())
        ]
        return web.json_response(entries)

    async def file(self, request: web.Request) -> web.StreamResponse:
        folder = self._folder(request)
        name, path = request.match_info["name"], folder / request.match_info["path"]
        if not path.is_file() and name not in self.gated:  # the gate is checked before the file's existence
            return await self.absent(request)
        if name in self.gated and path.name != "README.md":  # as the Hub: the card is for everybody
            raise _refusal(self.gated[name], {"X-Error-Code": "GatedRepo", "X-Error-Message": "awaiting a review"})
        commit = CONVERTED if folder.name.endswith(".converted") else COMMIT
        etag = hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest()
        headers = {"X-Repo-Commit": commit, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        if request.method == "HEAD":
            return web.FileResponse(path, headers=headers)
        label = f"{name}/{request.match_info['path']}"
        body = path.read_bytes()[request.http_range]
        self.fetched[label] += len(body)
        if self.faults.get(label):
            return await self._fail(request, self.faults[label].pop(0), body)
        return web.FileResponse(path, headers=headers)

    async def _fail(self, request: web.Request, fault: Any, body: bytes) -> web.StreamResponse:
        if fault != "cut":
            status, headers = fault if isinstance(fault, tuple) else (fault, {})
            return web.Response(status=status, headers=headers, text="later")
        response = web.StreamResponse(status=206, headers={"Content-Length": str(len(body))})
        await response.prepare(request)
        await response.write(body[: len(body) // 2])
        assert request.transport is not None
        request.transport.abort()
        return response


def _refusal(status: int, headers: dict[str, str]) -> web.HTTPException:
    kind: type[web.HTTPException] = type("Refusal", (web.HTTPClientError,), {"status_code": status})
    return kind(headers=headers, text="Invalid username or password.")


class Reader:
    """The process that reads, and the port at which it looks for a Hub."""

    def __init__(self, folder: Path, **more: str) -> None:
        self._port = unused_port()
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        environment |= {
            "HF_ENDPOINT": f"http://127.0.0.1:{self._port}",
            "HF_HOME": str(folder / "home"),
            "HF_TOKEN": "hf_test",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "PYTHONPATH": str(ROOT),
            "NO_PROXY": "127.0.0.1",
            **more,
        }
        command = [sys.executable, "-c", READER]
        self._process = subprocess.Popen(
            command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    async def run(self, hub: Hub | None, commands: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Run commands against a Hub, or where there is none; nothing comes back from a run that dies."""
        app = web.Application()
        for route, handler in (hub.routes() if hub else {}).items():
            app.router.add_get(route, handler)
        server = TestServer(app, port=self._port)
        if hub:
            await server.start_server()
        try:
            results, status = await asyncio.wait_for(asyncio.to_thread(self._exchange, commands), 120)
        finally:
            await server.close()
        assert status == (9 if any(command.get("die") for command in commands) else 0)
        return results

    def _exchange(self, commands: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], int]:
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps(commands), file=self._process.stdin, flush=True)
        results: list[dict[str, Any]] = []
        for line in self._process.stdout:
            if line.startswith("RESULT"):
                results = json.loads(line.removeprefix("RESULT"))
            elif line.startswith("EXIT"):
                return results, int(line.split()[1])
        raise AssertionError("the reader is gone")

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
