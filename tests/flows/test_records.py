"""Runs of one machine share the mirror of a bucket: they move files in turn, and a cancelled one does not wait."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from flows import records
from flows.parameters import FlowParameters
from flows.records import recorded
from storage.bucket import INDEX
from storage.layout import Layout
from storage.lock import only_writer
from tests.bucket import BUCKET
from tests.bucket import bucket as bucket
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("bucket")


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    monkeypatch.setenv("DISTRUST_MIRROR", str(tmp_path))
    return Layout.of(f"s3://{BUCKET}/corpus")


def objects(layout: Layout) -> set[str]:
    assert layout.bucket is not None
    return set(layout.bucket._list("runs"))


async def train(layout: Layout, begun: asyncio.Event, go_on: asyncio.Event) -> None:
    async with recorded(FlowParameters(), layout, reads=[], writes=["runs/mine"]):
        begun.set()
        await go_on.wait()
        layout.run("mine").mkdir(parents=True, exist_ok=True)
        (layout.run("mine") / "training.log").write_text("done")


async def test_a_stage_that_ends_while_another_moves_files_waits_for_its_turn(
    layout: Layout, caplog: pytest.LogCaptureFixture
) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()
    training = asyncio.create_task(train(layout, begun, go_on))
    await begun.wait()
    with only_writer(layout.root / INDEX):  # another run pulls the whole corpus
        go_on.set()
        await until(lambda: "waiting for it to finish" in caplog.text)
        await asyncio.sleep(0.5)
        assert not training.done() and objects(layout) == set()
    await training
    assert objects(layout) == {"runs/mine/training.log"}


@pytest.mark.parametrize("at", ["the beginning", "the end"])
async def test_a_run_that_is_cancelled_while_it_waits_ends(
    layout: Layout, at: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(records, "CANCELLED_PATIENCE_SECONDS", 0.5)
    begun, go_on = asyncio.Event(), asyncio.Event()
    training = asyncio.create_task(train(layout, begun, go_on))
    if at == "the end":
        await begun.wait()
    with only_writer(layout.root / INDEX):
        await (until(lambda: "waiting" in caplog.text) if at == "the beginning" else asyncio.sleep(0))
        training.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(training, 10)
    assert ("the bucket gets runs/mine later" in caplog.text) == (at == "the end")
