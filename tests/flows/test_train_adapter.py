"""The training flows against a real Prefect server, on a tiny random model."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from blocks.training_host import TrainingHost
from flows.compare_recipes import compare_recipes
from flows.corpus_to_model import corpus_to_model
from flows.train_adapter import train_adapter
from storage.checkpoint import list_checkpoints
from storage.errors import MixtureError, ParameterError, UserError
from tasks.lora.display import as_data_url
from tasks.lora.recipe import Recipe
from tests.flows import newest_artifact, summarise
from tests.flows.test_stages import KINDS, write_documents
from tests.station import processes_of
from tests.tasks.chain_events import events
from tests.tasks.lora.tiny_model import seal_mixture, tiny_recipe, write_base, write_mixture

pytestmark = pytest.mark.prefect


@pytest.fixture
def store(tmp_path: Path, prefect_server: None) -> Path:
    write_base(tmp_path / "base")
    seal_mixture(write_mixture(tmp_path / "store" / "balanced" / "tiny"))
    return tmp_path / "store"


def fields(store: Path, **changes: Any) -> dict[str, Any]:
    recipe: Recipe = tiny_recipe(store.parent / "base", **changes)
    return recipe.model_dump() | {"store": str(store), "mixture": "tiny"}


async def kill_trainer(run: Path, flow: asyncio.Future[Any]) -> None:
    """Kill the process that trains a run, as soon as there is one."""
    trainers: list[tuple[int, int]] = []
    while not trainers:
        assert not flow.done(), flow.result()
        await asyncio.sleep(0.05)
        trainers = await asyncio.to_thread(processes_of, str(run / "train.json"))
    os.kill(trainers[0][0], signal.SIGKILL)


async def test_a_killed_trainer_is_a_crash_and_the_next_run_goes_on(store: Path) -> None:
    slow = fields(store, max_steps=8, save_every=2, report_every=1, thermal_throttle=0.3)
    started = asyncio.ensure_future(train_adapter(**slow, run="one", return_state=True))
    folder = store / "runs" / "one"
    while not list_checkpoints(folder):
        assert not started.done(), started.result()
        await asyncio.sleep(0.05)
    await kill_trainer(folder, started)
    state = await started
    assert state.is_crashed()
    assert "continues from its newest checkpoint" in state.message
    result = await train_adapter(**slow | {"thermal_throttle": 0.0}, run="one")
    assert result.steps == 8
    assert "Resuming from" in (folder / "training.log").read_text("utf-8")

    (told,) = await events("distrust.trained.ready", 1, str(store))
    assert told["payload"] == {"name": "one", "store": str(store), "mixture": "tiny"}, "a crash is not told as sealed"

    progress = await newest_artifact("training")
    assert float(progress.data) == 100.0
    assert "step 8/8: loss=" in progress.description and "left" in progress.description
    assert (await newest_artifact("training-curve")).data.startswith("data:image/svg+xml;base64,")


async def test_a_plan_trains_nothing(store: Path) -> None:
    result = await train_adapter(**fields(store), run="planned", plan=True)
    assert result.fits and 1e6 < result.peak_bytes < 50e6
    text = summarise(result)
    assert "Trainable parameters: 4,096 / 26,848 (15.26%)" in text and "GB that training may use: fits" in text
    assert not (store / "runs").exists()


async def test_a_plan_can_be_made_for_another_machine(store: Path, prefect_server: None) -> None:
    small, large = [await train_adapter(plan=True, memory_gb=memory_gb) for memory_gb in (16, 64)]  # auto by default
    assert (small.model, large.model) == ("llama-8b-abliterated", "r1-distill-70b")
    assert small.fits and large.fits and small.limit_bytes == pytest.approx(0.25 * large.limit_bytes)
    tight = await train_adapter(model="r1-distill-70b", plan=True, memory_gb=16)
    assert not tight.fits


async def test_the_saved_training_host_decides_what_auto_means(
    prefect_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DISTRUST_MEMORY_GB", "DISTRUST_PRESET"):
        monkeypatch.setenv(name, "")  # what the flow sets is taken back
    try:
        await TrainingHost(memory_gb=64).asave("default", overwrite=True)
        large = await train_adapter(model="auto", plan=True)
        await TrainingHost(memory_gb=64, preset="llama-8b-abliterated").asave("default", overwrite=True)
        named = await train_adapter(model="auto", plan=True)
    finally:  # the server is shared: no other test may find this document
        await TrainingHost.adelete("default")
    assert (large.model, named.model) == ("r1-distill-70b", "llama-8b-abliterated")
    assert large.limit_bytes == named.limit_bytes == pytest.approx(48e9)
    monkeypatch.setenv("DISTRUST_PRESET", "none-such")
    with pytest.raises(ParameterError, match="DISTRUST_PRESET is 'none-such'; choose one of r1-distill-70b"):
        await train_adapter(model="auto", plan=True)


async def test_recipes_are_compared_side_by_side_and_no_run_is_lost_to_another(store: Path) -> None:
    wanted = fields(store, max_steps=4) | {"run": "swept", "alphas": [2.9], "objectives": ["weighted", "additive"]}
    gone = str(store / "nowhere")
    wanted["models"] = [wanted["model"], gone]
    compared = asyncio.ensure_future(compare_recipes(**wanted))
    await kill_trainer(store / "runs" / "swept-alpha2.9-weighted-base", compared)
    with pytest.raises(UserError, match=r"(?s)3 of 4 .*weighted-base: .*Start the run again.*nowhere: .*exist"):
        await compared
    folder = store / "comparisons" / "swept"
    killed, lost, finished, _ = json.loads((folder / "comparison.json").read_text("utf-8"))
    assert "continues from its newest checkpoint" in killed["problem"] and gone in lost["problem"]
    assert (finished["run"], finished["steps"]) == ("swept-alpha2.9-additive-base", 4) and "gap" in finished
    picture = (folder / "effect.svg").read_text("utf-8")
    assert picture.count("<polyline") == 1 and "alpha2.9-additive-base" in picture
    table = (await newest_artifact("recipe-comparison")).data
    assert "| swept-alpha2.9-additive-base | 4 |" in table
    assert all(line.startswith("| ") for line in table.splitlines()), "a problem of several lines is one cell"
    assert (await newest_artifact("recipe-comparison-effect")).data == as_data_url(picture)


async def test_a_comparison_that_cannot_hold_starts_nothing(store: Path) -> None:
    with pytest.raises(ParameterError, match=r"alpha=2\.0: .*2\.3.*alpha=9\.0: .*3"):
        await compare_recipes(**fields(store) | {"alphas": [2.0, 2.7, 9.0]})
    assert not (store / "runs").exists()


async def test_a_poor_mixture_is_refused_unless_it_is_accepted(store: Path) -> None:
    path = store / "balanced" / "tiny" / "manifest.json"
    manifest = json.loads(path.read_text("utf-8"))
    manifest["notes"]["verdict"] = {"train": "poor", "valid": "good"}
    path.write_text(json.dumps(manifest), "utf-8")
    with pytest.raises(MixtureError, match=r"tiny is poorly distributed \(train\).*accept_imbalance=true"):
        await train_adapter(**fields(store, max_steps=2), run="one")
    result = await train_adapter(**fields(store, max_steps=2), run="one", accept_imbalance=True)
    assert result.steps == 2


async def test_a_training_that_cannot_fit_is_refused_before_anything_is_fetched(
    prefect_server: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISTRUST_MEMORY_GB", "16")
    catalogue = str(write_documents(tmp_path / "documents"))
    with pytest.raises(ParameterError, match=r"would need [\d.]+ GB at its peak .* choose a smaller model"):
        await corpus_to_model(
            store=str(tmp_path / "store"), catalogue=catalogue, sources=list(KINDS), model="r1-distill-70b"
        )
    assert not (tmp_path / "store" / "raw").exists()
