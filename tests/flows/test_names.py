from __future__ import annotations

from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.flow_engine import run_flow
from prefect.utilities.names import generate_slug

from flows.names import is_made_up, named

pytestmark = pytest.mark.prefect


async def run_as(name: str | None, work: Any, **parameters: Any) -> FlowRun:
    """Run a flow as a worker does: the run was created before, with a name or without."""
    async with get_client() as client:
        created = await client.create_flow_run(work, name=name, parameters=parameters)
        await run_flow(work, flow_run=created, parameters=parameters)
        return await client.read_flow_run(created.id)


@flow(flow_run_name=named("counting-{count}"))
async def counting(count: int) -> int:
    return count


async def test_a_name_that_was_chosen_stays_and_a_run_without_one_gets_that_of_its_flow(prefect_server: None) -> None:
    for name in ("a night on the new corpus", "nightly-run-3", "nightly-zxq", "corpus"):
        assert (await run_as(name, counting, count=3)).name == name
    assert (await run_as(None, counting, count=3)).name == "counting-3"


def test_names_that_prefect_makes_up_are_known() -> None:
    made_up = [generate_slug(2) for _ in range(500)]
    assert [name for name in made_up if not is_made_up(name)] == []
