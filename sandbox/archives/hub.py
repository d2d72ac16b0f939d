"""The sandbox Hugging Face hub: what `datasets` and `huggingface_hub` ask for when they stream a dataset."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from sandbox.archives.documents import SandboxDocument
from sandbox.archives.hub_files import HubFile, RepositoryWriter
from sandbox.archives.hub_rows import REPOSITORIES
from sandbox.archives.serving import Traffic, add_routes, send_bytes

_BRANCHES = ("main",)
_MOMENT = "2026-01-01T00:00:00.000Z"


@dataclass
class HubRepository:
    """One repository at its only revision."""

    repo: str
    revision: str
    files: dict[str, HubFile]
    card: dict[str, Any]
    _folders: dict[str, list[str]] = field(default_factory=dict)

    def entries(self, folder: str, recursive: bool) -> list[dict[str, Any]] | None:
        """List a folder as the tree endpoint does; None if there is no such folder."""
        prefix = f"{folder}/" if folder else ""
        below = {path: file for path, file in self.files.items() if path.startswith(prefix)}
        if not below:
            return None
        listed: dict[str, dict[str, Any]] = {}
        for path, file in below.items():
            *parents, _ = path.removeprefix(prefix).split("/")
            for depth in range(1, len(parents) + 1 if recursive else min(len(parents), 1) + 1):
                name = prefix + "/".join(parents[:depth])
                listed[name] = {"type": "directory", "oid": self.revision, "size": 0, "path": name}
            if recursive or not parents:
                listed[path] = {"type": "file", "oid": file.oid, "size": file.size, "path": path}
        return [listed[path] for path in sorted(listed)]

    def summary(self) -> dict[str, Any]:
        """Return what the hub tells of the repository."""
        return {
            "_id": self.revision[:24],
            "id": self.repo,
            "author": self.repo.partition("/")[0],
            "sha": self.revision,
            "private": False,
            "gated": False,
            "disabled": False,
            "tags": [],
            "cardData": self.card,
            "downloads": 0,
            "likes": 0,
            "createdAt": _MOMENT,
            "lastModified": _MOMENT,
            "siblings": [{"rfilename": path} for path in self.files],
        }


class SandboxHub:
    """Dataset repositories with one configuration and one split each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "hub"
        self._writers: dict[str, RepositoryWriter] = {}
        self._repositories: dict[str, HubRepository] = {}

    def add(self, document: SandboxDocument) -> None:
        """Add a document as one row."""
        source = document.source
        repository = REPOSITORIES[source]
        if source not in self._writers:
            self._writers[source] = RepositoryWriter(repository, self._folder / source)
        self._writers[source].add(repository.full_row(document), len(document.text))

    def finish(self, revisions: dict[str, str]) -> None:
        """Stop adding; `revisions` names the 40-digit revision of each source."""
        for source, writer in self._writers.items():
            repo = REPOSITORIES[source].repo
            files = {file.path: file for file in writer.finish()}
            self._repositories[repo] = HubRepository(repo, revisions[source], files, writer.card())

    def application(self, traffic: Traffic) -> web.Application:
        """Build the application of the hub."""
        app = web.Application()
        api, repo = "/api/datasets/{owner}/{name}", "/datasets/{owner}/{name}"
        routes = [
            ("hub-resolve", "GET", repo + "/resolve/{revision}/{path:.+}", self._resolve),
            ("hub-api", "GET", api, self._revision),
            ("hub-api", "GET", api + "/revision/{revision}", self._revision),
            ("hub-tree", "GET", api + "/tree/{revision}", self._tree),
            ("hub-tree", "GET", api + "/tree/{revision}/{path:.*}", self._tree),
            ("hub-api", "POST", api + "/paths-info/{revision}", self._paths_info),
        ]
        add_routes(app, traffic, routes)
        return app

    def _find(self, request: web.Request) -> HubRepository:
        repo = f"{request.match_info['owner']}/{request.match_info['name']}"
        repository = self._repositories.get(repo)
        if repository is None:
            raise _missing("RepoNotFound", f"Repository {repo} is not served here")
        if request.match_info.get("revision", "main") not in (*_BRANCHES, repository.revision):
            raise _missing("RevisionNotFound", f"Invalid rev id: {request.match_info['revision']}")
        return repository

    async def _resolve(self, request: web.Request) -> web.StreamResponse:
        repository = self._find(request)
        file = repository.files.get(request.match_info["path"])
        if file is None:
            raise _missing("EntryNotFound", "Entry not found", repository.revision)
        headers = {"X-Repo-Commit": repository.revision, "ETag": f'"{file.oid}"'}
        with file.local.open("rb") as content:
            return await send_bytes(
                request,
                file.size,
                lambda start, size: os.pread(content.fileno(), size, start),
                "application/octet-stream",
                headers,
            )

    async def _revision(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(self._find(request).summary())

    async def _tree(self, request: web.Request) -> web.StreamResponse:
        repository = self._find(request)
        recursive = request.query.get("recursive", "false").lower() in ("true", "1")
        entries = repository.entries(request.match_info.get("path", "").strip("/"), recursive)
        if entries is None:
            raise _missing("EntryNotFound", "Folder not found", repository.revision)
        return web.json_response(entries)

    async def _paths_info(self, request: web.Request) -> web.StreamResponse:
        repository = self._find(request)
        if request.content_type == "application/json":
            asked = (await request.json()).get("paths", [])
        else:
            asked = (await request.post()).getall("paths", [])
        paths = [asked] if isinstance(asked, str) else [str(path) for path in asked]
        everything = {entry["path"]: entry for entry in repository.entries("", recursive=True) or []}
        return web.json_response([everything[path] for path in paths if path in everything])


def _missing(code: str, message: str, revision: str | None = None) -> web.HTTPNotFound:
    headers = {"X-Error-Code": code, "X-Error-Message": message}
    if revision:
        headers["X-Repo-Commit"] = revision
    return web.HTTPNotFound(headers=headers, text=message)
