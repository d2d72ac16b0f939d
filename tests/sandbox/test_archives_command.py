"""The archives as a process of their own."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path

import aiohttp
import pytest
import zstandard

from sandbox.archives import SandboxArchives, SandboxDocument
from sandbox.archives.__main__ import main
from storage.errors import PrerequisiteError
from tasks.sources.catalogue import load_catalogue

PAGE = SandboxDocument(source="wikipedia", native_id="a", text="Something.", title="A", year=2003)


async def test_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    lines = f"{PAGE.model_dump_json()}\nnot json\n".encode()
    (tmp_path / "wikipedia.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(lines))
    catalogue = tmp_path / "sandbox.toml"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sandbox.archives", str(tmp_path), "--catalogue", str(catalogue), stdout=-1, stderr=-1
    )
    assert process.stdout is not None
    about = json.loads(await process.stdout.readline())
    assert (about["documents"], about["skipped"]) == ({"wikipedia": 1}, 1)
    endpoint = about["environment"]["HF_ENDPOINT"]
    revision = load_catalogue(catalogue)["wikipedia"].revision
    async with (
        aiohttp.ClientSession() as client,
        client.get(f"{endpoint}/api/datasets/wikimedia/wikipedia/revision/{revision}") as answer,
    ):
        assert answer.status == 200
    process.send_signal(signal.SIGTERM)
    _, errors = await process.communicate()
    assert process.returncode == 0
    assert b"skipped wikipedia.jsonl.zst:2: not JSON" in errors


def test_a_wrong_folder_is_said_plainly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "contains no *.jsonl.zst files" in capsys.readouterr().err


async def test_a_port_that_is_taken_is_named() -> None:
    async with SandboxArchives([PAGE]) as archives:
        port = int(archives.environment["HF_ENDPOINT"].rpartition(":")[2])
        with pytest.raises(PrerequisiteError, match=f"port {port}"):
            async with SandboxArchives([PAGE], port):
                raise AssertionError("both cannot have the port")
