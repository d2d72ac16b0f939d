"""The plain HTTP answers of the sandbox hub; what `datasets` makes of them is tested with the other clients."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from sandbox.archives import SandboxArchives, SandboxDocument


def document(source: str, number: int, **fields: Any) -> SandboxDocument:
    known: dict[str, Any] = {
        "source": source,
        "native_id": f"{source}-{number}",
        "text": f"Line one of {number}.\nThe last line, ünicode.",
        "title": f"Title {number}",
        "author": "Somebody",
        "year": 1990 + number,
        "part_of": f"work {number // 2}",
        "licence": "CC0",
    }
    return SandboxDocument(**(known | fields))


async def test_nothing_is_served_but_the_files_that_were_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    async with (
        SandboxArchives([document("wikipedia", 1)]) as archives,
        aiohttp.ClientSession(archives.environment["HF_ENDPOINT"]) as client,
    ):
        (tmp_path / "secret").write_text("secret")
        (folder,) = tmp_path.glob("sandbox-archives-*/hub/wikipedia")
        (folder / "link").symlink_to(tmp_path / "secret")
        for path in ("link", "part-00000", "%2e%2e/%2e%2e/%2e%2e/secret", "..%2f..%2f..%2fsecret", "%2fetc%2fpasswd"):
            address = URL(f"/datasets/wikimedia/wikipedia/resolve/main/{path}", encoded=True)
            async with client.get(address) as answer:
                assert answer.status == 404, path


async def test_plain_answers_of_the_hub() -> None:
    documents = [document("wikipedia", number) for number in range(3)]
    async with (
        SandboxArchives(documents) as archives,
        aiohttp.ClientSession(archives.environment["HF_ENDPOINT"]) as client,
    ):
        revision = archives.summaries["wikipedia"].revision
        repo, file = "/datasets/wikimedia/wikipedia", "20231101.simple/train-00000-of-00001.parquet"
        api = "/api/datasets/wikimedia/wikipedia"
        async with client.head(f"{repo}/resolve/main/{file}") as answer:
            assert answer.status == 200
            assert answer.headers["X-Repo-Commit"] == revision
            assert answer.headers["Accept-Ranges"] == "bytes"
            size = int(answer.headers["Content-Length"])
            etag = answer.headers["ETag"]
        async with client.get(f"{repo}/resolve/{revision}/{file}", headers={"Range": "bytes=0-3"}) as answer:
            assert (answer.status, await answer.read()) == (206, b"PAR1")
            assert answer.headers["Content-Range"] == f"bytes 0-3/{size}"
        async with client.get(f"{api}/tree/{revision}/20231101.simple") as answer:
            (entry,) = await answer.json()
            assert (entry["path"], entry["size"], f'"{entry["oid"]}"') == (file, size, etag)
        async with client.get(f"{api}/tree/main?recursive=true") as answer:
            assert [entry["path"] for entry in await answer.json()] == ["20231101.simple", file, "README.md"]
        async with client.get(f"{api}/tree/main") as answer:
            assert [entry["type"] for entry in await answer.json()] == ["directory", "file"]
        async with client.post(f"{api}/paths-info/{revision}", data={"paths": [file, "no-such"]}) as answer:
            assert [entry["path"] for entry in await answer.json()] == [file]
        async with client.get(api) as answer:
            assert (await answer.json())["sha"] == revision
        for path, code in (
            (f"{repo}/resolve/main/wikipedia.py", "EntryNotFound"),
            (f"{repo}/resolve/v2/README.md", "RevisionNotFound"),
            ("/datasets/no/such/resolve/main/README.md", "RepoNotFound"),
            (f"{api}/tree/main/no-such-folder", "EntryNotFound"),
        ):
            async with client.get(path) as answer:
                assert (answer.status, answer.headers["X-Error-Code"]) == (404, code)


async def test_same_documents_have_the_same_revision_and_bytes() -> None:
    documents = [document(source, number) for number in range(3) for source in ("us_patents", "wikipedia")]
    seen = []
    for _ in range(2):
        async with (
            SandboxArchives(documents) as archives,
            aiohttp.ClientSession(archives.environment["HF_ENDPOINT"]) as client,
            client.get("/api/datasets/common-pile/uspto/tree/main") as answer,
        ):
            seen.append((archives.summaries["us_patents"].revision, await answer.json()))
    assert seen[0] == seen[1]
