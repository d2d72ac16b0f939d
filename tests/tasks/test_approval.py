"""A run that no worker would start again waits in its process for the answer."""

from __future__ import annotations

import asyncio

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext

from tasks import approval


@pytest.mark.prefect
async def test_a_run_without_a_deployment_pauses_until_it_is_answered(
    prefect_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(approval, "POLL_SECONDS", 1)
    begun = asyncio.Event()
    runs = []

    @flow
    async def part() -> bool:
        context = FlowRunContext.get()
        assert context is not None and context.flow_run is not None
        runs.append(context.flow_run.id)
        begun.set()
        return await approval.ask_to_upload("Upload 3 files?", "0123456789abcdef0123")

    @flow
    async def whole() -> bool:
        return await part()

    answer = asyncio.ensure_future(whole())
    await asyncio.wait_for(begun.wait(), 60)
    async with get_client() as client:
        while not await client.filter_flow_run_input(
            runs[0], key_prefix="paused-upload-0123456789abcdef-schema", limit=1, exclude_keys=set()
        ):
            assert not answer.done(), answer.result()
            await asyncio.sleep(0.2)
        assert (await client.read_flow_run(runs[0])).state_name == "Paused"
        await client.resume_flow_run(runs[0], run_input={"upload": False})
        assert await asyncio.wait_for(answer, 60) is False


async def test_where_nobody_can_be_asked_nothing_is_sent() -> None:
    assert await approval.ask_to_upload("", "0") is False
