"""The whole pipeline on a store in a bucket that saved blocks open, and a second machine that finds it all done."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from moto.moto_api import recorder
from pyarrow.fs import FileSelector, S3FileSystem

from deployments import processes, server
from sandbox.__main__ import BUNDLED_DOCUMENTS, flow_command
from sandbox.archives import DocumentFolder, SandboxArchives, write_catalogue
from tests.bucket import BUCKET
from tests.bucket import bucket as bucket
from tests.prefect_database import give_database
from tests.test_end_to_end import SHORT

pytestmark = [pytest.mark.drill, pytest.mark.timeout(900)]

KEY, SECRET, TOKEN = "key-of-the-drill", "thisSecretMustShowNowhere", "hf_" + "norMustThisToken"
MARKS = (SECRET, TOKEN[3:])
STORE = f"s3://{BUCKET}/corpus"
SAVE = f"""
import os
from pydantic import SecretStr
from blocks.corpus_store import CorpusStore
from blocks.hugging_face import HuggingFaceHub
CorpusStore(
    root="{STORE}", endpoint=os.environ["S3"], access_key_id="{KEY}", secret_access_key=SecretStr("{SECRET}")
).save("drill", overwrite=True)
HuggingFaceHub(endpoint=os.environ["HF_ENDPOINT"], token=SecretStr("{TOKEN}")).save("drill", overwrite=True)
"""


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


async def run(command: list[str], environment: dict[str, str]) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *command, cwd=processes.ROOT, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    return int(process.returncode or 0), output.decode()


def holders(folder: Path, *marks: str) -> list[str]:
    """Files below a folder that hold one of the marks by which secrets can be told."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [
        str(path.relative_to(folder)) for path in files if any(mark.encode() in path.read_bytes() for mark in marks)
    ]


def objects(bucket: S3FileSystem) -> dict[str, str]:
    """The digest of every object, by its name in the store."""
    found = bucket.get_file_info(FileSelector(f"{BUCKET}/corpus", recursive=True))
    files = [info.path for info in found if info.is_file]
    return {
        path.removeprefix(f"{BUCKET}/corpus/"): hashlib.sha256(bucket.open_input_stream(path).read()).hexdigest()
        for path in files
    }


async def test_the_pipeline_on_a_bucket_leaves_its_secrets_nowhere_and_a_second_machine_has_nothing_to_do(
    bucket: S3FileSystem, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = os.environ["AWS_ENDPOINT_URL"]
    for name in [name for name in os.environ if name.startswith("AWS_") or name in ("HF_TOKEN", "HF_ENDPOINT")]:
        monkeypatch.delenv(name)
    catalogue = tmp_path / "sandbox.toml"
    async with SandboxArchives(DocumentFolder(BUNDLED_DOCUMENTS), unavailable_items=False) as archives:
        write_catalogue(catalogue, archives.summaries)
        environment = server.client_environment(port) | archives.environment
        environment |= {
            "HF_HOME": str(tmp_path / "hf"),
            "DISTRUST_STORE": "",
            "AWS_EC2_METADATA_DISABLED": "true",
            "S3": service,
        }
        status, said = await run([sys.executable, "-c", SAVE], environment)
        assert status == 0, said
        command = flow_command(catalogue, "sandbox", STORE, [*SHORT, "--no-replace-run", "--store", ""])

        opened = environment | {"DISTRUST_BLOCKS": "drill", "DISTRUST_MIRROR": str(tmp_path / "first")}
        status, said = await run(command, opened)
        assert status == 0, said[-4000:]
        first, told = objects(bucket), said
        status, said = await run(command, opened | {"DISTRUST_MIRROR": str(tmp_path / "second")})
        assert status == 0, said[-4000:]
        score = [sys.executable, "-m", "flows", "score-corpus"]
        heard = tmp_path.parent / "heard"
        monkeypatch.setattr(recorder, "_location", str(heard))
        recorder.start_recording()
        status, _ = await run(score, opened)
        recorder.stop_recording()
        assert status == 0
        await asyncio.sleep(3)  # logs and task runs are recorded in batches

    asked = [json.loads(line)["headers"] for line in heard.read_text("utf-8").splitlines()]
    assert asked and all(f"Credential={KEY}/" in headers["Authorization"] for headers in asked), "the block's key"

    made = ("raw", "scored", "balanced", "runs", "exports")
    assert {name.split("/")[0] for name in first} >= set(made)
    for name in ("exports/sandbox/model.safetensors", "runs/sandbox/result.json", "runs/sandbox/reports/report.html"):
        assert name in first, sorted(first)
    again = objects(bucket)
    weights = [name for name in first if name.endswith((".parquet", ".safetensors", "manifest.json"))]
    assert {name: again.get(name) for name in weights} == {name: first[name] for name in weights}
    assert not [name for name in again if ".tmp-" in name or ".lock" in name]

    with sqlite3.connect(processes.home() / "prefect.db") as database:
        database.execute("pragma wal_checkpoint(truncate)")
        parameters = [json.loads(row[0]) for row in database.execute("select parameters from flow_run")]
    database.close()
    assert len(parameters) >= 2 * 7, "the whole chain, twice"
    assert not [mark for mark in MARKS if mark in told + said]
    assert holders(processes.home(), *MARKS) == []
    assert holders(tmp_path, *MARKS) == []
    for name in first:
        content = bucket.open_input_stream(f"{BUCKET}/corpus/{name}").read()
        assert not [mark for mark in MARKS if mark.encode() in content], name
    (tmp_path / "found").write_text(SECRET)
    assert holders(tmp_path, *MARKS) == ["found"], "the search can find it"
