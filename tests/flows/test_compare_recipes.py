"""A comparison whose trainer is killed, against a real Prefect server."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest

from flows.compare_recipes import compare_recipes
from storage.errors import UserError
from tests.tasks.lora.tiny_model import seal_mixture, tiny_recipe, write_base, write_mixture

pytestmark = pytest.mark.prefect


async def process_of(specification: Path) -> int | None:
    """Return the process that was started with a specification file, if there is one."""
    listing = await asyncio.create_subprocess_exec("ps", "-ww", "-eo", "pid=,args=", stdout=asyncio.subprocess.PIPE)
    lines = (await listing.communicate())[0].decode().splitlines()
    return next((int(line.split()[0]) for line in lines if str(specification) in line), None)


async def test_a_killed_trainer_loses_no_other_run(tmp_path: Path, prefect_server: None) -> None:
    store = tmp_path / "store"
    seal_mixture(write_mixture(store / "balanced" / "tiny"))
    recipe = tiny_recipe(write_base(tmp_path / "base"), max_steps=2)
    wanted = recipe.model_dump() | {"store": str(store), "mixture": "tiny", "run": "swept", "alphas": [2.7, 2.9]}
    compared = asyncio.ensure_future(compare_recipes(**wanted))
    while (trainer := await process_of(store / "runs" / "swept-alpha2.7" / "train.json")) is None:
        assert not compared.done(), compared.result()
        await asyncio.sleep(0.05)
    os.kill(trainer, signal.SIGKILL)
    with pytest.raises(UserError, match=r"(?s)1 of 2 runs failed.*swept-alpha2\.7: .*Start the run again"):
        await compared
    folder = store / "comparisons" / "swept"
    killed, finished = json.loads((folder / "comparison.json").read_text("utf-8"))
    assert "goes on at its newest checkpoint" in killed["problem"]
    assert (finished["run"], finished["steps"]) == ("swept-alpha2.9", 2)
    table = (folder / "comparison.md").read_text("utf-8")
    assert all(line.startswith("| ") for line in table.splitlines()), "a problem of several lines is one cell"
