"""The Prefect server of `make up` against pages of other sites, by raw HTTP and in a browser."""

from __future__ import annotations

import base64
import http.client
import json
from typing import Any

import httpx
import pytest

from deployments.prefect_server import IDENTITY, proof
from tests.chromium import ATTEMPT, FOREIGN_NAME, needs_chromium, reported, shown
from tests.conftest import PrefectServer

SECRET = "hunter2-of-this-test"
CHALLENGE = "00112233445566778899aabbccddeeff"


class Prefect:
    """A running server, asked as a program asks it."""

    def __init__(self, server: PrefectServer) -> None:
        self.port, self.server = server.port, server
        self.url = f"http://127.0.0.1:{server.port}/api"

    def raw(
        self, method: str, path: str, headers: dict[str, str], body: str | None = None
    ) -> tuple[int, dict[str, str], str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.putrequest(method, path, skip_host="Host" in headers)
            for name, value in headers.items():
                connection.putheader(name, value)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(None if body is None else body.encode())
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read().decode()
        finally:
            connection.close()

    def ask(self, path: str, body: dict[str, Any]) -> Any:
        with httpx.Client(headers={"Prefect-Csrf-Client": "test"}, timeout=60) as client:
            token = client.get(f"{self.url}/csrf-token", params={"client": "test"}).json()["token"]
            answer = client.post(f"{self.url}/{path}", json=body, headers={"Prefect-Csrf-Token": token})
            return answer.raise_for_status().json()

    def names(self, kind: str) -> list[str]:
        return sorted(found["name"] for found in self.ask(f"{kind}/filter", {}))


@pytest.fixture(scope="module")
def prefect(running_server: PrefectServer) -> Prefect:
    """The server with the settings of `make up`, and one saved secret."""
    running = Prefect(running_server)
    save_secret(running)
    return running


def save_secret(running: Prefect) -> None:
    kind = httpx.get(f"{running.url}/block_types/slug/secret", timeout=60).json()["id"]
    schema = running.ask("block_schemas/filter", {"block_schemas": {"block_type_id": {"any_": [kind]}}})[0]["id"]
    block = {"name": "kept", "block_type_id": kind, "block_schema_id": schema, "data": {"value": SECRET}}
    running.ask("block_documents/", block)


def test_other_sites_read_nothing_and_may_not_ask_before_they_send(prefect: Prefect) -> None:
    """Which headers give another site away is shown in tests/storage/test_own_origin.py."""
    for other in ({"Host": f"rebound.example:{prefect.port}"}, {"Origin": "http://evil.example"}):
        for path in ("/api/version", "/", "/api/csrf-token?client=x", "/ui-settings", IDENTITY):
            status, headers, text = prefect.raw("GET", path, other)
            assert status == 403, path
            assert not any(header.startswith("access-control-") for header in headers), path
            assert json.loads(text)["detail"].endswith("."), path
    asked = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    status, headers, _ = prefect.raw("OPTIONS", "/api/flows/", asked)
    assert status == 403 and "access-control-allow-origin" not in headers


def test_a_link_of_a_notification_leads_to_the_page_and_to_nothing_else(prefect: Prefect) -> None:
    came = {"Referer": "http://chat.example/", "Sec-Fetch-Site": "cross-site"}
    click = came | {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert prefect.raw("GET", "/runs", click | {"Accept": "text/html"})[0] == 200
    for refused in (
        prefect.raw("GET", "/api/version", click),
        prefect.raw("POST", "/runs", click | {"Content-Type": "application/json"}, "{}"),
        prefect.raw("GET", "/runs", click | {"Sec-Fetch-Dest": "iframe"}),
        prefect.raw("GET", "/runs", click | {"Host": f"rebound.example:{prefect.port}"}),
        prefect.raw("GET", "/runs", came),
    ):
        assert refused[0] == 403


def test_what_a_page_sends_without_asking_changes_nothing(prefect: Prefect) -> None:
    status, _, text = prefect.raw("POST", "/api/flows/", {"Content-Type": "text/plain"}, '{"name": "planted"}')
    assert status == 403 and "application/json" in text
    assert "planted" not in prefect.names("flows")


def test_programs_and_own_pages_are_answered_without_leave_for_others(prefect: Prefect) -> None:
    for page in ({}, {"Origin": f"http://127.0.0.1:{prefect.port}", "Sec-Fetch-Site": "same-origin"}):
        status, headers, text = prefect.raw("GET", "/api/version", page)
        assert status == 200 and text
        assert not any(name.startswith("access-control-") for name in headers)
        assert headers["x-frame-options"] == "SAMEORIGIN"  # nor may another site show the page in a frame
    assert prefect.ask("flows/", {"name": "mine"})["name"] == "mine"


@pytest.mark.parametrize(
    ("header", "opened"),
    [({}, True), ({"Origin": "http://evil.example"}, False), ({"Host": "rebound.example:1"}, False)],
)
def test_websockets(prefect: Prefect, header: dict[str, str], opened: bool) -> None:
    handshake = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(bytes(16)).decode(),
        "Sec-WebSocket-Protocol": "prefect",
    }
    for path in ("/api/events/in", "/api/events/out", "/api/logs/out"):
        connection = http.client.HTTPConnection("127.0.0.1", prefect.port, timeout=30)
        connection.putrequest("GET", path, skip_host="Host" in header)
        for name, value in (handshake | header).items():
            connection.putheader(name, value)
        connection.endheaders()
        assert connection.getresponse().status == (101 if opened else 403), path
        connection.close()


def test_the_server_shows_that_it_knows_the_key(prefect: Prefect) -> None:
    key = prefect.server.key
    status, _, text = prefect.raw("GET", f"{IDENTITY}?challenge={CHALLENGE}", {})
    assert status == 200
    assert json.loads(text) == {"proof": proof(key, CHALLENGE), "pid": prefect.server.pid}
    assert proof(key, CHALLENGE) != proof(key + "x", CHALLENGE) != proof(key, CHALLENGE + "0")
    for wrong in ("", "?challenge=", "?challenge=xyz", f"?challenge={'0' * 200}"):
        assert prefect.raw("GET", IDENTITY + wrong, {})[0] == 400
    assert prefect.raw("POST", f"{IDENTITY}?challenge={CHALLENGE}", {})[0] == 404


STEAL = """
async function findings() {
  const api = "http://127.0.0.1:PORT/api";
  let token = "none";
  await attempt("token", async () => token = (await (await fetch(api + "/csrf-token?client=page")).json()).token);
  const headers = {...json, "Prefect-Csrf-Client": "page", "Prefect-Csrf-Token": token};
  const post = async (path, body) =>
    (await fetch(api + path, {method: "POST", headers, body: JSON.stringify(body)})).json();
  await attempt("secrets", async () =>
    (await post("/block_documents/filter", {include_secrets: true})).map(block => block.data.value).join());
  await attempt("deployment", async () => {
    const flow = await post("/flows/", {name: "planted"});
    const step = {"prefect.deployments.steps.run_shell_script": {script: "id"}};
    return (await post("/deployments/", {name: "planted", flow_id: flow.id, pull_steps: [step]})).name;
  });
  for (const mode of ["cors", "no-cors"])
    await attempt("text " + mode, async () => {
      const body = new Blob([JSON.stringify({name: "planted"})], {type: "text/plain"});
      return (await fetch(api + "/flows/", {method: "POST", mode, body})).type;
    });
  for (const path of ["/events/in", "/events/out", "/logs/out"])
    await attempt(path, () => opened(api.replace("http", "ws") + path));
  return found;
}
"""


@needs_chromium
def test_a_page_of_another_site_finds_every_door_shut(prefect: Prefect) -> None:
    found = reported(ATTEMPT + STEAL.replace("PORT", str(prefect.port)))
    assert found.pop("text no-cors") == "opaque"  # sent, whatever the answer: below is what it did
    assert set(found) == {"token", "secrets", "deployment", "text cors", "/events/in", "/events/out", "/logs/out"}
    assert set(found.values()) == {"refused"}, found
    assert "planted" not in prefect.names("flows") + prefect.names("deployments")


@needs_chromium
def test_a_name_that_was_made_to_point_here_shows_nothing(prefect: Prefect) -> None:
    """For the browser such a page has the server's own origin; only the name gives it away."""
    page = shown(f"http://{FOREIGN_NAME}:{prefect.port}/api/csrf-token?client=page")
    assert "This server is not called" in page and "token" not in page.replace("detail", "")


@needs_chromium
def test_the_own_page_shows_what_the_server_knows(prefect: Prefect) -> None:
    prefect.ask("flows/", {"name": "0-seen-in-the-browser"})
    assert "0-seen-in-the-browser" in shown(f"http://localhost:{prefect.port}/v2/flows")
