"""The served export: what it answers, to whom, and what it does not load whoever asks."""

from __future__ import annotations

import http.client
import json
import shutil
from collections.abc import Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import pytest

from storage.errors import ParameterError, UserError
from tasks.exports import serve
from tasks.exports.api_handler import LONGEST_BODY_BYTES
from tests.tasks.exports.conftest import export, specify

CHAT = "/v1/chat/completions"
KEY = "key-of-this-test"
MESSAGES: list[Any] = [{"role": "user", "content": "Why?"}]
JSON = {"Content-Type": "application/json"}
IMAGE = [{"type": "image_url", "image_url": {"url": "http://127.0.0.1:PORT/health"}}]


@pytest.fixture(scope="module")
def exported(float_base: Path, adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(export(specify(float_base, adapter, tmp_path_factory.mktemp("served"))).folder)


@pytest.fixture(scope="module")
def port(exported: Path) -> Iterator[int]:
    with serve.running(exported) as port:
        yield port


@pytest.fixture
def copied(exported: Path, tmp_path: Path) -> Path:
    """An export to be damaged."""
    return Path(shutil.copytree(exported, tmp_path / "exports" / "tiny"))


def test_the_openai_client_talks_to_the_server(exported: Path, port: int) -> None:
    from openai import APIStatusError, OpenAI

    with OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0) as client:
        assert str(exported) in [model.id for model in client.models.list()]
        chat = client.chat.completions.create(model=serve.MODEL, messages=MESSAGES, max_tokens=5)
        assert chat.object == "chat.completion"
        assert chat.choices[0].message.role == "assistant"
        assert isinstance(chat.choices[0].message.content, str)
        assert chat.choices[0].finish_reason in ("stop", "length")
        assert chat.usage is not None and 1 <= chat.usage.completion_tokens <= 5
        completion = client.completions.create(model=serve.MODEL, prompt="User: Why?\n\nAssistant:", max_tokens=5)
        assert isinstance(completion.choices[0].text, str)
        stream = client.chat.completions.create(model=serve.MODEL, messages=MESSAGES, max_tokens=5, stream=True)
        assert [part for part in stream if part.choices]
        with pytest.raises(APIStatusError):  # a model of another name is refused, not downloaded
            client.chat.completions.create(model="someone/other", messages=MESSAGES)


def test_an_export_is_found_by_its_name(exported: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()  # a folder of the same name here is not the export
    assert serve.find_export("tiny", str(exported.parents[1])) == exported
    assert serve.find_export(str(exported), None) == exported


@pytest.mark.parametrize("name", ["nothing", "../tiny"])
def test_what_is_not_an_export(exported: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert serve.main([name, "--store", str(exported.parents[1])]) == 1
    assert name in capsys.readouterr().err


@pytest.mark.parametrize("link", [False, True], ids=["cut", "link"])
def test_a_damaged_or_linked_export_is_not_served(copied: Path, link: bool, capsys: pytest.CaptureFixture[str]) -> None:
    weights = copied / "model.safetensors"
    if link:
        weights.symlink_to(weights.rename(copied.parent / "elsewhere.safetensors"))
    else:
        weights.write_bytes(b"cut")
    assert serve.main([str(copied), "--check"]) == 1
    assert "has missing or damaged files; run export-model again" in capsys.readouterr().err


def test_a_server_that_ends_says_why(copied: Path) -> None:
    (copied / "export.json").unlink()
    with pytest.raises(UserError, match=r"the server ended with status 1: .* is not an export"):
        serve.check(copied)


@pytest.mark.parametrize(("field", "value"), [("role", "user"), ("content", None)])
def test_an_answer_of_another_shape_is_noticed(field: str, value: str | None) -> None:
    message = {"role": "assistant", "content": "So."}
    usage = {"prompt_tokens": 3, "completion_tokens": 1}
    chat = {"object": "chat.completion", "choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}
    text = {"choices": [{"text": "So."}]}
    assert serve.read_answers([], chat, text, 1.0).answer == "So."
    message[field] = value  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"unexpected answers|valid string"):
        serve.read_answers([], chat, text, 1.0)


def raw(port: int, method: str, path: str, headers: dict[str, str], body: str | bytes = "") -> tuple[int, str]:
    """Ask the server; return status and text of an answer that no other site may read."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request(method, path, body or None, headers)
        answer = connection.getresponse()
        assert not any(name.lower().startswith("access-control-") for name, _ in answer.getheaders())
        return answer.status, answer.read().decode()


def chat(port: int, **fields: Any) -> tuple[int, str]:
    return raw(port, "POST", CHAT, JSON, json.dumps({"messages": MESSAGES, "max_tokens": 2, **fields}))


@pytest.mark.parametrize("foreign", [{"Host": "rebound.example"}, {"Origin": "http://evil.example"}], ids=str)
def test_other_sites_are_not_answered(port: int, foreign: dict[str, str]) -> None:
    question = json.dumps({"messages": MESSAGES, "max_tokens": 2})
    for method, path in (("GET", "/v1/models"), ("GET", "/health"), ("OPTIONS", CHAT), ("POST", CHAT)):
        body = question if method == "POST" else ""
        status, text = raw(port, method, path, foreign | (JSON if body else {}), body)
        assert status == 403 and json.loads(text)["error"]


def test_a_question_is_asked_in_json(port: int) -> None:
    for path in (CHAT, "/v1/completions", "/chat/completions"):
        status, text = raw(port, "POST", path, {"Content-Type": "text/plain"}, json.dumps({"messages": MESSAGES}))
        assert status == 403 and "application/json" in text


def test_programs_and_own_pages_are_answered(port: int, exported: Path) -> None:
    own = {"Origin": f"http://127.0.0.1:{port}", "Sec-Fetch-Site": "same-origin"}
    for headers in ({}, own, {"Host": f"localhost:{port}"}):
        status, text = raw(port, "GET", "/v1/models", headers)
        assert status == 200
        assert [model["id"] for model in json.loads(text)["data"]] == [serve.MODEL, str(exported)]
    for name in (serve.MODEL, str(exported), exported.name):
        assert chat(port, model=name)[0] == 200


REFUSED: list[dict[str, Any]] = [
    *({"model": name} for name in ("someone/other", "BASE", "../..", "", ["a"])),
    *({"adapters": name} for name in ("ADAPTER", ["ADAPTER"])),
    *({"draft_model": name} for name in ("BASE", "someone/other", {"a": 1})),
    {"chat_template": "{{ 1 }}"},
    {"chat_template_kwargs": {"chat_template": "{% for a in range(1000000000) %}{% endfor %}"}},
    {"chat_template_kwargs": "x"},
    *({"messages": messages} for messages in (["a"], {"a": 1}, [{"role": "user", "content": IMAGE}])),
]


def test_nothing_else_is_loaded_or_fetched(port: int, float_base: Path, adapter: Path) -> None:
    """What is named exists on this disk: only the check keeps it from being opened."""
    before = chat(port, temperature=0)[1]
    for fields in REFUSED:
        written = json.dumps(fields).replace("BASE", str(float_base)).replace("ADAPTER", str(adapter))
        status, text = chat(port, **json.loads(written.replace("PORT", str(port))))
        assert status == 400 and json.loads(text)["error"], fields
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
    found, text = raw(port, "POST", CHAT, JSON | headers, "{}")
    assert (found, bool(json.loads(text)["error"])) == (status, True)


@pytest.mark.parametrize("body", [b"\xff\xfe{", b"[" * 200_000, b"[]", b"{"], ids=["utf-16", "deep", "list", "cut"])
def test_what_is_no_request_gets_an_answer(port: int, body: bytes) -> None:
    assert raw(port, "POST", CHAT, JSON, body)[0] == 400


@pytest.mark.parametrize(("host", "key"), [("0.0.0.0", ""), ("::", "  "), ("", ""), ("mac.local", "")])
def test_other_machines_need_a_key(
    host: str, key: str, exported: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(serve.KEY, key)
    assert serve.main([str(exported), "--host", host, "--port", "0"]) == 1
    assert f"host {host!r} can be reached from other machines" in capsys.readouterr().err
    with pytest.raises(ParameterError, match=serve.KEY):
        serve.serve(exported, host, 0)


def test_with_a_key_nobody_is_answered_without_it_and_the_check_has_it(
    exported: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(serve.KEY, KEY)
    with serve.running(exported) as port:
        for given in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": KEY}, {"Authorization": "Bearer \xe9"}):
            for path in ("/v1/models", "/health"):
                assert raw(port, "GET", path, given)[0] == 401
            assert raw(port, "POST", CHAT, JSON | given, json.dumps({"messages": MESSAGES}))[0] == 401
        assert raw(port, "GET", "/v1/models", {"Authorization": f"Bearer {KEY}"})[0] == 200
        monkeypatch.setattr(serve, "running", lambda folder: nullcontext(port))
        assert serve.main([str(exported), "--check"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert str(exported) in found["models"] and isinstance(found["answer"], str)
    assert 1 <= found["completion_tokens"] <= 16
