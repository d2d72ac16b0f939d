from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_SSL_CERT_FILE,
    PREFECT_API_URL,
    temporary_settings,
)

from tasks import policies
from tasks.policies import wait_for_server

PASSWORD = "somebody:known"


def write_certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """Write a certificate for loopback that nobody vouches for but its own file."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(hours=1))
    certificate = builder.add_extension(names, critical=True).sign(key, hashes.SHA256())
    file = folder / "certificate.pem"
    file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    whole = folder / "with-key.pem"
    whole.write_bytes(
        file.read_bytes()
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(whole)
    return file, context


class Door:
    """The door of a server that asks for a password; `answers` come first, one for each request."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.asked = 0

    async def health(self, request: web.Request) -> web.Response:
        self.asked += 1
        if self.answers:
            status, headers = self.answers.pop(0)
            return web.Response(status=status, headers=headers)
        known = request.headers.get("Authorization") == "Basic " + base64.b64encode(PASSWORD.encode()).decode()
        return web.json_response(True, status=200 if known else 401)


@asynccontextmanager
async def served(door: Door, context: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Serve on loopback as a Prefect server would be; yields the address of its API."""
    app = web.Application()
    app.router.add_get("/api/health", door.health)
    server = TestServer(app)
    await server.start_server(ssl=context)
    yield str(server.make_url("/api"))
    await server.close()


async def test_the_server_is_asked_with_the_certificate_and_the_password_of_every_call(tmp_path: Path) -> None:
    file, context = write_certificate(tmp_path)
    async with served(door := Door(), context) as address, asyncio.timeout(60.0):
        known = {PREFECT_API_SSL_CERT_FILE: str(file), PREFECT_API_AUTH_STRING: PASSWORD, PREFECT_API_URL: address}
        with temporary_settings(known):
            await wait_for_server(3600.0)
    assert door.asked == 1


async def test_a_server_is_waited_for_until_it_answers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(policies, "HEALTH_POLL_SECONDS", 0.01)
    monkeypatch.setattr(policies, "SERVER_WAIT_SECONDS", 1.0)
    door = Door()
    door.answers = [(500, {}), (404, {}), (503, {"Retry-After": "600"})]  # the last one Prefect itself would wait for
    async with served(door) as address, asyncio.timeout(60.0):
        with temporary_settings({PREFECT_API_AUTH_STRING: PASSWORD, PREFECT_API_URL: address}):
            await wait_for_server(3600.0)
    assert door.asked >= 4 and not door.answers
    assert caplog.text.count("the Prefect server is away") == 1


async def test_a_server_that_refuses_is_there_and_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies, "HEALTH_POLL_SECONDS", 0.01)
    async with served(door := Door()) as address, asyncio.timeout(60.0):
        with temporary_settings({PREFECT_API_AUTH_STRING: "somebody:else", PREFECT_API_URL: address}):
            await wait_for_server(3600.0)
    assert door.asked == 1
    async with asyncio.timeout(60.0):  # by now nobody listens there, and then there is no certificate to ask with
        for more in ({}, {PREFECT_API_SSL_CERT_FILE: "/nowhere.pem"}):
            with temporary_settings({PREFECT_API_URL: address, **more}):
                await wait_for_server(0.2)


def test_a_mac_gives_a_training_time_on_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "AGX_RELAX_CDM_CTXSTORE_TIMEOUT"
    monkeypatch.delenv(name, raising=False)
    assert name not in policies.child_environment()
    monkeypatch.setattr("sys.platform", "darwin")
    assert policies.child_environment()[name] == "1"
    monkeypatch.setenv(name, "0")
    assert policies.child_environment()[name] == "0", "what the user says wins"
