"""What Prefect's side of a training does to the folder of a run."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from storage.atomic import write_json
from storage.checkpoint import write_checkpoint
from storage.errors import DistrustError
from storage.layout import Layout
from storage.lock import only_writer
from storage.manifest import Manifest, write_manifest
from storage.retention import DAY_SECONDS, RetentionParameters, plan_removals
from tasks import training
from tasks.lora.recipe import AUTO, Recipe, Specification
from tasks.policies import Progress
from tasks.training import supersede_other_run, train_recipe

RECIPE = Recipe(model="base")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path)


def make_run(layout: Layout, recipe: Recipe = RECIPE, mixture_digest: str = "m") -> Path:
    run = layout.run("distrust")
    write_checkpoint(run, 1, lambda folder: None, {})
    write_json(run / "run.json", {"recipe": recipe.model_dump(mode="json"), "mixture_digest": mixture_digest})
    return run


def aside(layout: Layout) -> list[Path]:
    return sorted((layout.root / "set-aside" / "runs").glob("*"))


def test_a_run_that_began_with_the_former_default_goes_on_with_its_model(layout: Layout) -> None:
    today = Recipe(model=AUTO)
    assert training.as_begun(layout, "distrust", today) == today
    make_run(layout, Recipe())
    assert training.as_begun(layout, "distrust", today) == Recipe()
    other = Recipe(model=AUTO, lora_rank=8)
    assert training.as_begun(layout, "distrust", other) == other


@pytest.mark.parametrize(
    ("before", "digest", "moved"),
    [
        (RECIPE, "m", False),
        (RECIPE.model_copy(update={"max_steps": 9, "early_stop": 3}), "m", False),
        (RECIPE.model_copy(update={"alpha": 2.9}), "m", True),
        (RECIPE, "other", True),
    ],
)
async def test_a_run_is_set_aside_when_its_recipe_or_mixture_differs(
    layout: Layout, before: Recipe, digest: str, moved: bool
) -> None:
    run = make_run(layout, before, digest)
    await supersede_other_run(layout, "distrust", "m", RECIPE)
    assert run.exists() is not moved
    assert [(place / "checkpoint-1" / "state.json").is_file() for place in aside(layout)] == [True] * moved


@pytest.mark.parametrize("content", ["{", "{}", '{"recipe": {"no_such_field": 1}, "mixture_digest": "m"}'])
async def test_a_record_that_cannot_be_read_is_of_another_run(layout: Layout, content: str) -> None:
    (make_run(layout) / "run.json").write_text(content, "utf-8")
    await supersede_other_run(layout, "distrust", "m", RECIPE)
    assert len(aside(layout)) == 1


async def test_the_same_run_can_be_set_aside_again(layout: Layout) -> None:
    await supersede_other_run(layout, "distrust", "m", RECIPE)  # there is none yet
    for _ in range(2):
        make_run(layout, mixture_digest="other")
        await supersede_other_run(layout, "distrust", "m", RECIPE)
    assert len(aside(layout)) == 2 and not layout.run("distrust").exists()


async def test_a_run_that_was_set_aside_today_is_kept_however_old_it_is(layout: Layout) -> None:
    run = make_run(layout, mixture_digest="other")
    then = time.time() - 40 * DAY_SECONDS
    for entry in [*run.rglob("*"), run]:
        os.utime(entry, (then, then))
    await supersede_other_run(layout, "distrust", "m", RECIPE)
    assert plan_removals(layout, RetentionParameters()) == []
    (removal,) = plan_removals(layout, RetentionParameters(), time.time() + 31 * DAY_SECONDS)
    assert removal.path == aside(layout)[0]


@pytest.mark.parametrize("lock", ["distrust", "."], ids=["a flow of the run", "a trainer whose flow was killed"])
async def test_a_live_writer_is_waited_for_before_its_run_is_set_aside(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, lock: str
) -> None:
    write_manifest(layout.balanced("mine"), Manifest(kind="balanced", name="mine", shards=[]))
    run = make_run(layout, mixture_digest="other")
    begun: list[Specification] = []

    async def begin(module: str, specification: Specification, *others: object) -> None:
        assert not run.exists(), "the earlier run lies aside when the child begins"
        with only_writer(run.parent, patience_seconds=0.0):  # which takes the training slot
            begun.append(specification)
        raise DistrustError("the child ends here")

    @asynccontextmanager
    async def shown_to_nobody(key: str, description: str) -> AsyncIterator[Progress]:
        yield Progress(key, description)

    monkeypatch.setattr(training, "shown_progress", shown_to_nobody)
    monkeypatch.setattr(training, "run_child", begin)
    monkeypatch.setattr(training, "wait_for_server", lambda seconds: asyncio.sleep(0))
    with only_writer((layout.root / "runs" / lock).resolve()):
        # Its function, without Prefect around it.
        waiting = asyncio.create_task(train_recipe.fn(layout, "distrust", "mine", RECIPE, replace_run=True))
        await asyncio.sleep(0.7)
        assert run.exists() and not begun, "a trainer that is still at work keeps its folder"
        write_checkpoint(run, 2, lambda folder: None, {})
    with pytest.raises(DistrustError, match="ends here"):
        await asyncio.wait_for(waiting, 30.0)
    (place,) = aside(layout)
    assert sorted(path.name for path in place.iterdir()) == ["checkpoint-1", "checkpoint-2", "run.json"]
    assert begun[0].run_folder == run
    assert json.loads((place / "run.json").read_text("utf-8"))["mixture_digest"] == "other"
