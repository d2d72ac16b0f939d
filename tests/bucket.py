"""An S3-compatible service on loopback, with one bucket."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import httpx
import pytest
from moto.server import ThreadedMotoServer
from pyarrow.fs import S3FileSystem

BUCKET = "archive"


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3FileSystem]:
    """The service, named by the environment as a user would name it."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    service = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    service.start()
    try:
        host, port = service.get_host_and_port()
        httpx.post(f"http://{host}:{port}/moto-api/reset")  # its memory is the process's
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
        monkeypatch.delenv("AWS_PROFILE", raising=False)
        filesystem = S3FileSystem(
            endpoint_override=f"{host}:{port}", scheme="http", region="us-east-1", allow_bucket_creation=True
        )
        filesystem.create_dir(BUCKET)
        yield filesystem
    finally:
        service.stop()
