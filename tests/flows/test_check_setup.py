"""The setup check against a real Prefect server."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from flows.check_setup import check_setup
from flows.summaries import summarise
from storage.errors import PrerequisiteError

pytestmark = pytest.mark.prefect

COMPONENTS = {
    *("versions", "catalogue", "scoring", "data preparation", "accelerator", "distrust loss", "presets"),
    *("training steps", "disk", "Prefect server", "workers"),
    *("zombie runs", "blocked pools", "locked versions", "database"),
}


async def test_every_component_is_tried(tmp_path: Path, prefect_server: None) -> None:
    result = await check_setup(store=str(tmp_path))
    assert {check.component for check in result.checks} == COMPONENTS
    assert not result.failed
    text = summarise(result)
    assert "149.8" in text and "training and" in text and "GB free" in text


async def test_a_failure_says_what_to_do_beside_what_works(
    tmp_path: Path, prefect_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Any) -> Any:
        return type("Usage", (), {"free": 2e9})()

    monkeypatch.setattr(shutil, "disk_usage", full)
    with pytest.raises(PrerequisiteError) as stopped:
        await check_setup(store=str(tmp_path))
    text = str(stopped.value)
    assert "1 of 15 components failed" in text and "DISTRUST_STORE" in text and "149.8" in text
