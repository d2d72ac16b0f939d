"""Events of the chain against a real Prefect server."""

from __future__ import annotations

import pytest
from prefect import flow

from tasks.chain import announce_sealed
from tests.tasks.chain_events import events

pytestmark = pytest.mark.prefect


@flow
async def stage(mixture: str) -> None:
    announce_sealed("balanced", mixture, "/store", digest="d")


@flow
async def pipeline() -> None:
    await stage("as-part")


async def test_a_flow_on_its_own_tells_and_a_part_of_another_does_not(prefect_server: None) -> None:
    await pipeline()
    await stage("alone")
    (event,) = await events("distrust.balanced.ready", 1, "/store")
    assert event["resource"]["prefect.resource.id"] == "distrust.balanced.alone"
    assert event["payload"] == {"name": "alone", "store": "/store", "digest": "d"}


def test_outside_of_a_flow_nothing_is_told() -> None:
    announce_sealed("raw", "corpus", "")
