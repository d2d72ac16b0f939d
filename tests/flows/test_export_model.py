"""The export flow against a real Prefect server, on a tiny random Qwen2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flows.export_model import export_model
from tests.flows import newest_artifact, summarise
from tests.tasks.chain_events import events
from tests.tasks.exports.conftest import QWEN2, an_export, write_adapter, write_base, write_mixture

pytestmark = pytest.mark.prefect


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return write_run(tmp_path)


def write_run(tmp_path: Path) -> Path:
    """Write a store with one finished run."""
    base = write_base(tmp_path / "base", QWEN2)
    write_mixture(tmp_path / "store" / "balanced" / "guide")
    run = tmp_path / "store" / "runs" / "tiny"
    write_adapter(base, run / "checkpoint-20")
    (run / "run.json").write_text(json.dumps({"balanced": str(tmp_path / "store" / "balanced" / "guide")}))
    result = {
        "steps": 20,
        "recipe_digest": "r",
        "data_digest": "d",
        "adapter": "checkpoint-20",
        "model_path": str(base),
    }
    (run / "result.json").write_text(json.dumps(result))
    return tmp_path / "store"


async def test_the_files_are_shown_and_a_second_export_makes_none(store: Path, prefect_server: None) -> None:
    wanted: dict[str, Any] = {"gguf": "q8_0", "peft": True, "hub_repository": "me/tiny"}
    result = await export_model(store=str(store), run="tiny", **wanted)
    folder = store / "exports" / "tiny"
    assert result.folder == str(folder)
    shown = json.loads((await newest_artifact("export-files")).data)
    assert {row["file"]: (row["bytes"], row["sha256"]) for row in shown} == {
        record.file: (record.bytes, record.sha256) for record in result.files
    }
    assert {"model.safetensors", "tiny-q8_0.gguf", "peft/adapter_model.safetensors"} <= {row["file"] for row in shown}
    link = await newest_artifact("exported-model")
    assert f"file://{folder}" in link.data
    assert "tasks.exports.serve tiny" in link.description

    (told,) = await events("distrust.exported.ready", 1, str(store))
    assert told["payload"] == {"name": "tiny", "store": str(store), "run": "tiny"}

    text = summarise(result)
    assert "GGUF" in text and "dry run, --no-hub-dry-run uploads" in text and "unchanged" not in text

    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    again = await export_model(store=str(store), run="tiny", **wanted)
    assert again.reused
    assert "(unchanged)" in summarise(again)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == times


async def test_what_changed_while_a_person_thought_is_asked_for_again(
    store: Path, prefect_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def answer(summary: str, digest: str) -> bool:
        asked.append(digest)
        if len(asked) == 1:  # retrained meanwhile
            write_adapter(store.parent / "base", store / "runs" / "tiny" / "checkpoint-40", seed=12)
            result = store / "runs" / "tiny" / "result.json"
            result.write_text(result.read_text().replace("checkpoint-20", "checkpoint-40"))
            return True
        return False

    monkeypatch.setattr("flows.export_model.ask_to_upload", answer)
    monkeypatch.setenv("HF_TOKEN", "hf_nobody")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # an upload would fail
    wanted: dict[str, Any] = {"hub_repository": "me/tiny", "hub_dry_run": False, "approve": True}
    result = await export_model(store=str(store), run="tiny", **wanted)
    assert len(set(asked)) == 2 and result.hub and asked[1] == result.hub.digest
    assert not result.hub.uploaded and not result.reused


def test_a_model_too_large_to_compare_is_summarised() -> None:
    assert "not compared: too large for this machine" in summarise(an_export())
