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
