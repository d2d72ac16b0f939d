"""A run whose processes are all gone is marked by the automation, and its pool of one slot takes the next run."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments import automations, server
from tests.stages import STAGES
from tests.station import Station, families_of, running_station, until

pytestmark = [pytest.mark.drill, pytest.mark.timeout(1200)]

AUTOMATION = "crash-silent-runs"
HEARTBEAT_SECONDS, SILENCE_SECONDS = 30, 45
"""Prefect beats no faster."""


@pytest.fixture
def station(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Station]:
    monkeypatch.setitem(server.CLIENT_SETTINGS, "PREFECT_FLOWS_HEARTBEAT_FREQUENCY", str(HEARTBEAT_SECONDS))
    with running_station(tmp_path / "prefect", "mac-train", slots=1) as running:
        yield running


async def apply_with_short_spans(station: Station, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the automation of this project on the server as it is, but for the span."""
    (entry,) = [entry for entry in automations.read_automations() if entry.name == AUTOMATION]
    assert entry.trigger["within"] > 5 * int(server.CLIENT_SETTINGS["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])
    entry.trigger["within"] = SILENCE_SECONDS
    monkeypatch.setattr(automations, "read_automations", lambda: [entry])
    with temporary_settings({PREFECT_API_URL: station.url}):
        async with get_client() as client:
            (change,) = await automations.put_automations(client, "", dry_run=False)
    assert (change.sign, change.detail) == ("+", "on")


def test_a_silent_run_is_marked_crashed_and_frees_its_pool(
    station: Station, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(apply_with_short_spans(station, monkeypatch))
    stage = STAGES["train-adapter"]
    store = stage.prepare(tmp_path)
    parameters = stage.parameters(store) | {"store": str(store)}
    under_way = stage.watch(store)
    silent = station.start_run(stage.flow, parameters)
    until(under_way)
    processes = families_of(*station.flow_processes())
    station.kill_worker()
    for process in processes:
        os.kill(process, signal.SIGKILL)
    station.start_worker()
    waiting = station.start_run(stage.flow, parameters | stage.quick)
    assert station.state(silent) == "RUNNING", "nobody was left to say that it ended"
    assert station.ended(silent, 2.0 * (HEARTBEAT_SECONDS + SILENCE_SECONDS)) == "CRASHED"
    assert "No sign of life" in station.message(silent)
    assert station.ended(waiting) == "COMPLETED"
    assert stage.made(store)
