from __future__ import annotations

import json
from pathlib import Path

import pytest

from storage.errors import UserError
from tasks.exports import serve
from tasks.exports.export import export_model
from tests.tasks.exports.conftest import Emit
from tests.tasks.exports.test_export import Specification


@pytest.fixture
def exported(specification: Specification, emit: Emit) -> Path:
    return Path(export_model(specification, emit)["folder"])


def test_the_openai_client_talks_to_the_server(exported: Path) -> None:
    from openai import APIStatusError, OpenAI

    with (
        serve.running(exported) as port,
        OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0) as client,
    ):
        assert str(exported) in [model.id for model in client.models.list()]
        chat = client.chat.completions.create(
            model=serve.MODEL, messages=[{"role": "user", "content": "What do the records say?"}], max_tokens=5
        )
        assert chat.object == "chat.completion"
        assert chat.choices[0].message.role == "assistant"
        assert isinstance(chat.choices[0].message.content, str)
        assert chat.choices[0].finish_reason in ("stop", "length")
        assert chat.usage is not None and 1 <= chat.usage.completion_tokens <= 5
        completion = client.completions.create(model=serve.MODEL, prompt="User: Why?\n\nAssistant:", max_tokens=5)
        assert isinstance(completion.choices[0].text, str)
        stream = client.chat.completions.create(
            model=serve.MODEL, messages=[{"role": "user", "content": "Why?"}], max_tokens=5, stream=True
        )
        parts = [part.choices[0].delta.content or "" for part in stream if part.choices]
        assert len(parts) >= 1
        with pytest.raises(APIStatusError):  # a model of another name is refused, not downloaded
            client.chat.completions.create(model="someone/other", messages=[{"role": "user", "content": "Why?"}])


def test_the_check_prints_what_came_back(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert serve.main([str(exported), "--check"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert str(exported) in found["models"]
    assert isinstance(found["answer"], str)
    assert 1 <= found["completion_tokens"] <= 16


def test_an_export_is_found_by_its_name(exported: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert serve.find_export("tiny", str(exported.parents[1])) == exported
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()  # a folder of the same name here is not the export
    assert serve.find_export("tiny", str(exported.parents[1])) == exported
    assert serve.find_export(str(exported), None) == exported


@pytest.mark.parametrize("name", ["nothing", "../tiny"])
def test_what_is_no_export(exported: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert serve.main([name, "--store", str(exported.parents[1])]) == 1
    assert name in capsys.readouterr().err


def test_a_damaged_export_is_not_served(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (exported / "model.safetensors").write_bytes(b"cut")
    assert serve.main([str(exported), "--check"]) == 1
    assert "holds damaged ones; run export-model again" in capsys.readouterr().err


def test_what_a_link_leads_to_is_not_served(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = exported / "model.safetensors"
    weights.symlink_to(weights.rename(exported.parent / "elsewhere.safetensors"))
    assert serve.main([str(exported), "--check"]) == 1
    assert "holds damaged ones; run export-model again" in capsys.readouterr().err


def test_a_server_that_ends_says_why(exported: Path) -> None:
    (exported / "export.json").unlink()
    with pytest.raises(UserError, match=r"the server ended with status 1: .* is not an export"):
        serve.check(exported)


@pytest.mark.parametrize(("field", "value"), [("role", "user"), ("content", None)])
def test_an_answer_of_another_shape_is_noticed(field: str, value: str | None) -> None:
    message = {"role": "assistant", "content": "So."}
    chat = {"object": "chat.completion", "choices": [{"message": message, "finish_reason": "stop"}], "usage": {"n": 1}}
    text = {"choices": [{"text": "So."}]}
    assert serve.require_shape(chat, text)[1] == {"n": 1}
    message[field] = value
    with pytest.raises(ValueError, match="unexpected answers"):
        serve.require_shape(chat, text)
