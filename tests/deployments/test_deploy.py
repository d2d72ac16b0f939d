"""Deploying that ends half-way; tests/deployments/test_applied.py does the same to a real server."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from deployments import deploy
from storage.errors import PrerequisiteError

CLIENT: Any = None


@pytest.mark.parametrize("ended_by", ["a bad entry", "Ctrl-C"])
async def test_choices_are_put_back_once_it_has_ended(ended_by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()
    order: list[str] = []

    def run_deploy(names: list[str], version: str) -> None:
        begun.set()
        assert go_on.wait(60)
        order.append(f"deployed {names[0]}")
        raise PrerequisiteError("prefect deploy failed: the next entry is bad")

    async def read_deployment(client: Any, name: str) -> Any:
        return SimpleNamespace(name=name) if name != "new" else None

    async def restore_choices(client: Any, earlier: Any) -> None:
        order.append(f"restored {earlier.name}")

    for replacement in (run_deploy, read_deployment, restore_choices):
        monkeypatch.setattr(deploy, replacement.__name__, replacement)
    monkeypatch.setattr(deploy, "read_deployments", lambda: {"first": {}, "new": {}, "second": {}})
    monkeypatch.setattr(deploy, "describe_wanted", lambda entry, version: {"tags": [], "schedules": {}})
    monkeypatch.setattr(deploy, "describe_found", lambda found, own: {"tags": ["another"], "schedules": {}})

    applying = asyncio.create_task(deploy.deploy_changed(CLIENT, dry_run=False))
    assert await asyncio.to_thread(begun.wait, 60)
    if ended_by == "Ctrl-C":
        applying.cancel()
        await asyncio.sleep(0.1)
        assert order == [], "what still writes is waited for"
    go_on.set()
    with pytest.raises(asyncio.CancelledError if ended_by == "Ctrl-C" else PrerequisiteError):
        await applying
    assert order == ["deployed first", "restored first", "restored second"]
