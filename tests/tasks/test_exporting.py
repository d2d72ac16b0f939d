from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from storage.atomic import write_json
from storage.layout import Layout
from tasks import exporting
from tasks.exports.export_manifest import ExportResult
from tasks.exports.parameters import ExportParameters, ExportRequest
from tests.tasks.exports.conftest import an_export


async def test_two_exports_of_one_run_do_what_each_was_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout.of(str(tmp_path))
    result = {"steps": 20, "recipe_digest": "r", "data_digest": "d", "adapter": "checkpoint-20", "model_path": "base"}
    write_json(layout.run("tiny") / "result.json", result)
    write_json(layout.run("tiny") / "run.json", {"balanced": "guide"})

    async def slow_child(module: str, request: ExportRequest, path: Path, *others: object) -> ExportResult:
        write_json(path, request.model_dump(mode="json"))
        await asyncio.sleep(0.3)  # as long as it takes until the child reads
        return an_export(folder=json.loads(path.read_bytes())["export_folder"])

    monkeypatch.setattr(exporting, "run_child", slow_child)
    names = ("plain", "small")
    exports = (exporting.export_run.fn(layout, "tiny", name, ExportParameters()) for name in names)
    made = await asyncio.gather(*exports)
    assert [one.folder for one in made] == [str(layout.export(name)) for name in names]
