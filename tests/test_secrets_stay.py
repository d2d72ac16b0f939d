"""A token in a block serves a download, and is found nowhere afterwards: neither on the server nor in the store."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sqlite3
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from deployments import processes, server
from storage.manifest import read_manifest
from tests.prefect_database import give_database
from tests.tasks.sources.hub_double import Hub

pytestmark = [pytest.mark.drill, pytest.mark.timeout(1200)]

ROOT = Path(__file__).resolve().parent.parent
TOKEN = "hf_" + "thisTokenMustShowNowhere"
SAVE = f"""
from blocks.hugging_face import HuggingFaceHub
from pydantic import SecretStr
import os
HuggingFaceHub(endpoint=os.environ["ENDPOINT"], token=SecretStr("{TOKEN}")).save("default", overwrite=True)
"""


class ListeningHub(Hub):
    """Notes who showed the token."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.shown: list[str] = []

    @web.middleware
    async def listen(self, request: web.Request, handler: object) -> web.StreamResponse:
        self.shown.append(request.headers.get("Authorization", ""))
        return await handler(request)  # type: ignore[operator, no-any-return]


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PREFECT_HOME", str(give_database(tmp_path_factory.mktemp("prefect"))))
        found = server.free_port(0)
        process = server.start_server(found)
        yield found
        processes.stop("server")
        with contextlib.suppress(ChildProcessError):
            process.wait()


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[tuple[ListeningHub, str]]:
    for name in ("open", "shut"):
        (tmp_path / "hub" / name).mkdir(parents=True)
        lines = [json.dumps({"text": f"The text of row {row} of {name}. " * 9}) for row in range(20)]
        (tmp_path / "hub" / name / "train.jsonl").write_text("\n".join(lines))
    listening = ListeningHub(tmp_path / "hub")
    listening.gated["shut"] = 403
    app = web.Application(middlewares=[listening.listen])
    for route, handler in listening.routes().items():
        app.router.add_route("*", route, handler)
    served = TestServer(app)
    await served.start_server()
    yield listening, str(served.make_url("/")).rstrip("/")
    await served.close()


async def run(command: list[str], environment: dict[str, str]) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    return int(process.returncode or 0), output.decode()


def holders(folder: Path, *marks: str) -> list[str]:
    """Files below a folder that hold one of the marks by which secrets can be told."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [
        str(path.relative_to(folder)) for path in files if any(mark.encode() in path.read_bytes() for mark in marks)
    ]


async def test_a_token_is_used_and_left_nowhere(port: int, hub: tuple[ListeningHub, str], tmp_path: Path) -> None:
    listening, endpoint = hub
    secrets = ("HF_TOKEN", "HF_ENDPOINT", "DISTRUST_BLOCKS")
    environment = {key: value for key, value in server.client_environment(port).items() if key not in secrets}
    environment |= {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1"}
    status, said = await run([sys.executable, "-c", SAVE], {**environment, "ENDPOINT": endpoint})
    assert status == 0, said

    catalogue = tmp_path / "catalogue.toml"
    entry = "[{0}]\narchive = 'hugging_face'\nrepo = 'org/{0}'\nsource_type = 'wiki'\ntrivium = 'grammar'\n"
    catalogue.write_text("".join(entry.format(name) + "prior_authority = 0.9\n" for name in ("open", "shut")))
    words = ["--catalogue", str(catalogue), "--store", str(tmp_path / "store"), "--max-samples", "10"]
    words += ["--patience-hours", "0"]
    status, said = await run([sys.executable, "-m", "flows", "download-corpus", *words], environment)

    assert f"Bearer {TOKEN}" in listening.shown, "the token was used: " + said[-2000:]
    manifest = read_manifest(tmp_path / "store" / "raw" / "open")
    assert manifest is not None and manifest.rows > 0, said[-2000:]
    assert read_manifest(tmp_path / "store" / "raw" / "shut") is None, "a refused source is part of the test"

    await asyncio.sleep(3)  # logs and task runs are recorded in batches
    assert TOKEN[3:] not in said
    # Database with parameters, task inputs, states, artifacts, events and logs; results and cache keys; log files.
    with sqlite3.connect(processes.home() / "prefect.db") as database:
        database.execute("pragma wal_checkpoint(truncate)")
        counts = {
            table: database.execute(f"select count(*) from {table}").fetchone()[0]
            for table in ("flow_run", "task_run", "log", "artifact", "events", "block_document")
        }
    database.close()
    assert all(counts.values()), counts
    assert holders(processes.home(), TOKEN[3:]) == []
    assert holders(tmp_path, TOKEN[3:]) == []

    (tmp_path / "found").write_text(os.linesep + TOKEN)
    assert holders(tmp_path, TOKEN[3:]) == ["found"], "the search can find it"
