"""The setup check against a real Prefect server."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from flows.check_setup import check_setup
from storage.errors import PrerequisiteError

pytestmark = pytest.mark.prefect

COMPONENTS = {
    *("versions", "catalogue", "scoring", "data preparation", "accelerator", "distrust loss", "presets"),
    *("training steps", "disk", "Prefect server", "workers"),
    *("zombie runs", "blocked pools", "locked versions", "database"),
}


async def test_every_component_is_tried_and_a_failure_says_what_to_do_beside_what_works(
    tmp_path: Path, prefect_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2e9))
    with pytest.raises(PrerequisiteError) as stopped:
        await check_setup(store=str(tmp_path))
    first, *rows = str(stopped.value).splitlines()
    states = {row[2:24].strip(): row[25:32].strip() for row in rows}
    assert states == dict.fromkeys(COMPONENTS, "ok") | {"disk": "FAILED"}
    text = "\n".join(rows)
    assert (
        "1 of 15 components failed" in first and "DISTRUST_STORE" in text and "149.8" in text and "training and" in text
    )
