from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from aiohttp import web

from storage.errors import ArchiveBusy, DistrustError, PrerequisiteError, SourceUnavailable
from tasks.sources.catalogue import SourceSpec
from tasks.sources.hugging_face import hub_error, open_hugging_face
from tasks.sources.source import Connection
from tests.tasks.sources.conftest import Serve

COMMIT = "a" * 40
ROOT = Path(__file__).resolve().parents[3]

# The Hub's libraries read their endpoint when they are imported, so the reading happens in a process of its own.
READER = """
import asyncio, json, sys
from tasks.sources.catalogue import SourceSpec
from tasks.sources.shards import fetch_shard
from tasks.sources.source import Archives, Connection, Pace
from tasks.sources.web import Web
from storage.errors import DistrustError
from storage.shard_plan import make_plan
from pathlib import Path

async def read(fields, folder):
    spec = SourceSpec.model_validate(fields)
    async with Archives(Connection.from_environment(), Pace(), Web()).open(spec) as source:
        items = await source.plan(fields["rows_per_item"])
        plan = make_plan(spec.name, "r", items, 2)
        outcomes = [await fetch_shard(source, spec, shard, folder, 4, 1000) for shard in plan.shards]
    return {"items": [item.data for item in items], "documents": [outcome.documents for outcome in outcomes],
            "reasons": [outcome.reasons for outcome in outcomes]}

results = []
for fields in json.loads(sys.argv[1]):
    try:
        results.append(asyncio.run(read(fields, Path(sys.argv[2]) / fields["name"])))
    except DistrustError as error:
        results.append({"error": type(error).__name__, "message": str(error)})
print("RESULT" + json.dumps(results))
"""


def make_fields(name: str = "hub", **fields: Any) -> dict[str, Any]:
    return {
        "name": name,
        "archive": "hugging_face",
        "repo": "org/ds",
        "source_type": "wiki",
        "trivium": "grammar",
        **fields,
    }


class Hub:
    """The part of the Hub that streaming one dataset needs, over the files of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.downloads: list[tuple[str, str]] = []

    def routes(self) -> dict[str, Any]:
        return {
            "/api/datasets/org/ds": self.info,
            "/api/datasets/org/ds/revision/{revision}": self.info,
            "/api/datasets/org/ds/tree/{revision}{path:.*}": self.tree,
            "/datasets/org/ds/resolve/{revision}/{path:.*}": self.file,
            "/{anything:.*}": self.absent,
        }

    async def absent(self, request: web.Request) -> web.Response:
        code = "EntryNotFound" if "/org/ds" in request.path else "RepoNotFound"
        return web.json_response({"error": "not found"}, status=404, headers={"X-Error-Code": code})

    async def info(self, request: web.Request) -> web.Response:
        names = [path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file()]
        return web.json_response(
            {
                "id": "org/ds",
                "_id": "1",
                "sha": COMMIT,
                "private": False,
                "gated": False,
                "disabled": False,
                "tags": [],
                "downloads": 0,
                "likes": 0,
                "lastModified": "2026-01-01T00:00:00.000Z",
                "createdAt": "2026-01-01T00:00:00.000Z",
                "siblings": [{"rfilename": name} for name in names],
            }
        )

    async def tree(self, request: web.Request) -> web.Response:
        below = self.folder / request.match_info["path"].strip("/")
        if not below.is_dir():
            return await self.absent(request)
        deep = request.query.get("recursive", "false").lower() in ("true", "1")
        entries = [
            {
                "type": "file" if path.is_file() else "directory",
                "oid": hashlib.sha1(path.name.encode(), usedforsecurity=False).hexdigest(),
                "size": path.stat().st_size if path.is_file() else 0,
                "path": path.relative_to(self.folder).as_posix(),
            }
            for path in sorted(below.rglob("*") if deep else below.iterdir())
        ]
        return web.json_response(entries)

    async def file(self, request: web.Request) -> web.StreamResponse:
        path = self.folder / request.match_info["path"]
        if not path.is_file():
            return await self.absent(request)
        if request.method == "GET":
            self.downloads.append((request.match_info["revision"], request.match_info["path"]))
        etag = hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest()
        return web.FileResponse(path, headers={"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"})


async def run_reader(endpoint: str, folder: Path, specs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    environment |= {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(folder / "home"),
        "HF_TOKEN": "hf_test",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONPATH": str(ROOT),
        "NO_PROXY": "127.0.0.1",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        READER,
        json.dumps(specs),
        str(folder / "store"),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await asyncio.wait_for(process.communicate(), 120)
    lines = [line for line in output.decode().splitlines() if line.startswith("RESULT")]
    assert lines, errors.decode()[-3000:]
    results: list[dict[str, Any]] = json.loads(lines[0].removeprefix("RESULT"))
    return results


async def test_a_dataset_is_streamed_from_a_hub(tmp_path: Path, serve: Serve) -> None:
    data = tmp_path / "repo" / "data"
    data.mkdir(parents=True)
    (data.parent / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train-*\n---\n", "utf-8"
    )
    for part in range(2):
        rows = [
            {
                "id": str(n),
                "text": f"This is the text of row {n}." if n % 10 else "",
                "metadata": {"publication_date": str(1900 + n)},
                "unused": "x",
            }
            for n in range(part * 50, part * 50 + 50)
        ]
        pq.write_table(pa.Table.from_pylist(rows), data / f"train-{part:05d}-of-00002.parquet")
    hub = Hub(data.parent)
    columns = {"text": "text", "id": "id", "date": "metadata.publication_date"}
    specs = [
        make_fields("all", columns=columns, rows_per_item=15),
        make_fields(
            "old", columns=columns, rows_per_item=20, year_filter={"max": 1949}, scan_rows=120, revision=COMMIT
        ),
        make_fields("typo", columns={"text": "txet"}, rows_per_item=10),
        make_fields("absent", repo="org/absent", rows_per_item=10),
    ]
    everything, old, typo, absent = await run_reader(await serve(hub.routes()), tmp_path, specs)

    assert everything["items"][1] == {"revision": COMMIT, "start": 15, "rows": 15}
    assert sum(everything["documents"]) == 56 - 6
    assert everything["reasons"][0] == {"missing-text": 3}
    assert [item["start"] for item in old["items"]] == [0, 20, 40, 60, 80, 100]
    assert (sum(old["documents"]), old["reasons"][-1]) == (45, {"missing-text": 2, "outside-years": 18})
    assert typo["error"] == absent["error"] == "SourceUnavailable"
    assert "no columns ['txet']" in typo["message"]
    assert "HF_TOKEN" in absent["message"]
    assert {revision for revision, path in hub.downloads if path.endswith(".parquet")} == {COMMIT}


async def test_a_pinned_dataset_is_planned_without_asking() -> None:
    spec = SourceSpec.model_validate(make_fields(revision=COMMIT, rows_per_item=100, first_row=30))
    async with open_hugging_face(spec, Connection(), 2026) as source:
        items = await source.plan(100)
    assert [(item.data["start"], item.data["rows"]) for item in items] == [(30, 100), (130, 100), (230, 70)]
    assert items[0].url == f"https://huggingface.co/datasets/org/ds/tree/{COMMIT}"


async def test_a_folder_of_the_same_name_is_not_mistaken_for_the_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "org" / "ds").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    spec = SourceSpec.model_validate(make_fields(revision=COMMIT))
    async with open_hugging_face(spec, Connection(), 2026) as source:
        item = (await source.plan(1))[0]
        with pytest.raises(SourceUnavailable, match="hides the dataset"):
            [outcome async for outcome in source.fetch(item)]


def named(kind: str, message: str = "said", status: int | None = None, **headers: str) -> Exception:
    """Make an error that looks like one of the Hub's libraries, of any version."""
    error: Exception = type(kind, (Exception,), {})(message)
    if status is not None:
        error.response = SimpleNamespace(status_code=status, headers=headers)  # type: ignore[attr-defined]
    return error


def wrapped(outer: Exception, inner: Exception) -> Exception:
    outer.__cause__ = inner
    return outer


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (named("GatedRepoError", status=403), SourceUnavailable, "accept its terms"),
        (named("RepositoryNotFoundError", status=401), SourceUnavailable, "does not exist or is private"),
        (named("DatasetNotFoundError"), SourceUnavailable, "does not exist"),
        (named("RevisionNotFoundError", status=404), SourceUnavailable, "no revision 'v9'"),
        (named("HfHubHTTPError", status=503), ArchiveBusy, "answered 503"),
        (named("HfHubHTTPError", status=429), ArchiveBusy, "answered 429"),
        (wrapped(FileNotFoundError("x.parquet"), named("HTTPStatusError", status=429)), ArchiveBusy, "answered 429"),
        (wrapped(RuntimeError("read"), ConnectionResetError("gone")), ArchiveBusy, "could not be read"),
        (TimeoutError(), ArchiveBusy, "could not be read"),
        (RuntimeError("Dataset scripts are no longer supported, but found ds.py"), SourceUnavailable, "refs/convert"),
        (named("OfflineModeIsEnabled"), PrerequisiteError, "HF_HUB_OFFLINE"),
        (ValueError("BuilderConfig 'x' not found. Available: ['y']"), SourceUnavailable, r"Available: \['y'\]"),
    ],
)
def test_what_a_failure_of_the_hub_means(error: Exception, kind: type[DistrustError], words: str) -> None:
    spec = SourceSpec.model_validate(make_fields(revision="v9"))
    with pytest.raises(kind, match=words):
        raise hub_error(error, spec)


def test_a_named_pause_of_the_hub_is_kept() -> None:
    spec = SourceSpec.model_validate(make_fields())
    error = hub_error(named("HfHubHTTPError", status=429, **{"Retry-After": "55"}), spec)
    assert isinstance(error, ArchiveBusy)
    assert error.retry_after_seconds == 55
