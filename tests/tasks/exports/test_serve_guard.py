"""The served export against pages of other sites, and against requests that name something else to load."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from storage.errors import ParameterError
from tasks.exports import serve
from tasks.exports.api_handler import LONGEST_BODY_BYTES
from tasks.exports.export import export_model
from tests.chromium import ATTEMPT, FOREIGN_NAME, needs_chromium, reported, shown
from tests.tasks.exports.conftest import specify

CHAT = "/v1/chat/completions"
KEY = "key-of-this-test"
MESSAGES = [{"role": "user", "content": "Why?"}]
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def exported(float_base: Path, adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    specification = specify(float_base, adapter, tmp_path_factory.mktemp("served"))
    return Path(export_model(specification, lambda *_, **__: None)["folder"])


@pytest.fixture(scope="module")
def port(exported: Path) -> Iterator[int]:
    with serve.running(exported) as port:
        yield port


def raw(
    port: int, method: str, path: str, headers: dict[str, str], body: str | bytes = ""
) -> tuple[int, dict[str, str], str]:
    content = body.encode() if isinstance(body, str) else body
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.putrequest(method, path, skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name, value)
        if content and "Content-Length" not in headers:
            connection.putheader("Content-Length", str(len(content)))
        connection.endheaders(content)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read().decode()
    finally:
        connection.close()


def chat(port: int, **fields: Any) -> tuple[int, str]:
    status, headers, text = raw(port, "POST", CHAT, JSON, json.dumps({"messages": MESSAGES, "max_tokens": 2, **fields}))
    assert not any(name.startswith("access-control-") for name in headers)
    return status, text


@pytest.mark.parametrize(
    "header",
    [
        ("Host", "rebound.example:{port}"),
        ("Origin", "http://evil.example"),
        ("Origin", "null"),
        ("Referer", "http://127.0.0.1:1/"),
        ("Sec-Fetch-Site", "same-site"),
    ],
)
def test_other_sites_are_not_answered(port: int, header: tuple[str, str]) -> None:
    foreign = {header[0]: header[1].format(port=port)}
    question = json.dumps({"messages": MESSAGES, "max_tokens": 2})
    for method, path in (("GET", "/v1/models"), ("GET", "/health"), ("OPTIONS", CHAT), ("POST", CHAT)):
        body = question if method == "POST" else ""
        status, headers, text = raw(port, method, path, {**foreign, **JSON} if body else foreign, body)
        assert status == 403 and json.loads(text)["error"]
        assert not any(name.startswith("access-control-") for name in headers)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_a_question_is_asked_in_json(port: int, kind: str) -> None:
    body = json.dumps({"messages": MESSAGES, "max_tokens": 2})
    for path in (CHAT, "/v1/completions", "/chat/completions"):
        status, _, text = raw(port, "POST", path, {"Content-Type": kind} if kind else {}, body)
        assert status == 403 and "application/json" in text


def test_programs_and_own_pages_are_answered(port: int, exported: Path) -> None:
    own = {"Origin": f"http://127.0.0.1:{port}", "Sec-Fetch-Site": "same-origin"}
    for headers in ({}, own, {"Host": f"localhost:{port}"}):
        status, _, text = raw(port, "GET", "/v1/models", headers)
        assert status == 200
        assert [model["id"] for model in json.loads(text)["data"]] == [serve.MODEL, str(exported)]
    for name in (serve.MODEL, str(exported), exported.name):
        assert chat(port, model=name)[0] == 200


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "someone/other"},
        {"model": "BASE"},
        {"model": "../.."},
        {"model": ""},
        {"model": ["a"]},
        {"adapters": "ADAPTER"},
        {"adapters": ["ADAPTER"]},
        {"draft_model": "BASE"},
        {"draft_model": "someone/other"},
        {"draft_model": {"a": 1}},
        {"chat_template": "{{ 1 }}"},
        {"chat_template_kwargs": {"chat_template": "{% for a in range(1000000000) %}{% endfor %}"}},
        {"chat_template_kwargs": "x"},
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1:PORT/health"}}],
                }
            ]
        },
        {"messages": ["a"]},
        {"messages": {"a": 1}},
    ],
    ids=str,
)
def test_nothing_else_is_loaded_or_fetched(
    port: int, exported: Path, float_base: Path, adapter: Path, fields: dict[str, Any]
) -> None:
    """What is named exists on this disk: only the check keeps it from being opened."""
    written = json.dumps(fields).replace("BASE", str(float_base)).replace("ADAPTER", str(adapter))
    before = chat(port, temperature=0)[1]
    status, text = chat(port, **json.loads(written.replace("PORT", str(port))))
    assert status == 400 and json.loads(text)["error"]
    assert answer(chat(port, temperature=0)[1]) == answer(before), "the same model answers as before"


def answer(text: str) -> str:
    return str(json.loads(text)["choices"][0]["message"]["content"])


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Length": str(LONGEST_BODY_BYTES + 1)}, 413),
        ({"Content-Length": "9" * 5000}, 413),
        ({"Content-Length": "-1"}, 400),
        ({"Content-Length": "x"}, 400),
        ({"Transfer-Encoding": "chunked"}, 411),
    ],
)
def test_a_request_is_bounded(port: int, headers: dict[str, str], status: int) -> None:
    found, _, text = raw(port, "POST", CHAT, JSON | headers, "{}")
    assert (found, bool(json.loads(text)["error"])) == (status, True)


@pytest.mark.parametrize("body", [b"\xff\xfe{", b"[" * 200_000, b"[]", b"{"], ids=["utf-16", "deep", "list", "cut"])
def test_what_is_no_request_gets_an_answer(port: int, body: bytes) -> None:
    assert raw(port, "POST", CHAT, JSON, body)[0] == 400


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.1.20", "mac.local", "0"])
def test_other_machines_need_a_key(host: str, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (None, "", "  "):
        monkeypatch.delenv(serve.KEY, raising=False) if value is None else monkeypatch.setenv(serve.KEY, value)
        with pytest.raises(ParameterError, match=serve.KEY):
            serve.key_for(host)
    command = [sys.executable, "-m", "tasks.exports.serve", str(exported), "--host", host, "--port", "0"]
    told = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False, timeout=60)
    assert told.returncode == 1 and serve.KEY in told.stderr and "Traceback" not in told.stderr


def test_with_a_key_nobody_is_answered_without_it(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(serve.KEY, KEY)
    with serve.running(exported) as port:  # the start and the check know it
        for given in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": KEY}, {"Authorization": "Bearer \xe9"}):
            for path in ("/v1/models", "/health"):
                assert raw(port, "GET", path, given)[0] == 401
            assert raw(port, "POST", CHAT, JSON | given, json.dumps({"messages": MESSAGES}))[0] == 401
        assert raw(port, "GET", "/v1/models", {"Authorization": f"Bearer {KEY}"})[0] == 200


ASK = """
async function findings() {
  const api = "http://127.0.0.1:PORT";
  await attempt("models", async () => (await fetch(api + "/v1/models")).text());
  const body = JSON.stringify({messages: [{role: "user", content: "Why?"}], max_tokens: 2});
  for (const kind of ["application/json", "text/plain"])
    await attempt(kind, async () =>
      (await fetch(api + "/v1/chat/completions", {method: "POST", headers: {"Content-Type": kind}, body})).text());
  return found;
}
"""


@needs_chromium
@pytest.mark.parametrize("host", ["127.0.0.1", FOREIGN_NAME])
def test_a_page_of_another_site_is_not_answered(port: int, host: str) -> None:
    found = reported(ATTEMPT + ASK.replace("PORT", str(port)), host)
    assert found == dict.fromkeys(("models", "application/json", "text/plain"), "refused")


@needs_chromium
def test_a_name_that_was_made_to_point_here_is_not_answered(port: int) -> None:
    assert "This server is not called" in shown(f"http://{FOREIGN_NAME}:{port}/v1/models")
