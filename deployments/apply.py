"""Bring a server to the state that this project describes; doing it again changes nothing.

In this order: pools, global limits, block types, automations, then every deployment of ``prefect.yaml``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import yaml
from prefect.automations import Automation
from prefect.blocks.core import Block
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import (
    GlobalConcurrencyLimitCreate,
    GlobalConcurrencyLimitUpdate,
    WorkPoolCreate,
    WorkPoolUpdate,
)
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound

from blocks.corpus_store import CorpusStore
from blocks.hugging_face import HuggingFaceHub
from blocks.internet_archive import InternetArchive
from blocks.library_of_congress import LibraryOfCongress
from blocks.training_host import TrainingHost
from storage.errors import PrerequisiteError

HERE = Path(__file__).resolve().parent
BLOCKS: tuple[type[Block], ...] = (InternetArchive, LibraryOfCongress, HuggingFaceHub, CorpusStore, TrainingHost)


def read_limits() -> dict[str, Any]:
    """Read ``limits.toml``."""
    return tomllib.loads((HERE / "limits.toml").read_text("utf-8"))


def read_automations() -> list[AutomationCore]:
    """Read ``automations.yaml``."""
    content = yaml.safe_load((HERE / "automations.yaml").read_text("utf-8"))
    return [AutomationCore.model_validate(automation) for automation in content["automations"]]


async def apply() -> list[str]:
    """Apply everything to the server that ``PREFECT_API_URL`` names; return one line per thing that was done."""
    limits = read_limits()
    async with get_client() as client:
        done = [await put_pool(client, name, pool) for name, pool in limits["pools"].items()]
        done += [await put_limit(client, name, slots) for name, slots in limits["limits"].items()]
        for block in BLOCKS:
            await block.aregister_type_and_schema(client=client)
            done.append(f"block {block.get_block_type_slug()}")
    done += [await put_automation(automation) for automation in read_automations()]
    return [*done, *deploy_all()]


async def put_pool(client: PrefectClient, name: str, pool: dict[str, Any]) -> str:
    """Create or update a process pool."""
    try:
        await client.read_work_pool(name)
        await client.update_work_pool(
            name, WorkPoolUpdate(description=pool["description"], concurrency_limit=pool["concurrency"])
        )
    except ObjectNotFound:
        await client.create_work_pool(
            WorkPoolCreate(
                name=name, type="process", description=pool["description"], concurrency_limit=pool["concurrency"]
            )
        )
    return f"pool {name}: {pool['concurrency']} at once"


async def put_limit(client: PrefectClient, name: str, slots: int) -> str:
    """Create or update a global concurrency limit."""
    try:
        await client.read_global_concurrency_limit_by_name(name)
        await client.update_global_concurrency_limit(name, GlobalConcurrencyLimitUpdate(limit=slots))
    except ObjectNotFound:
        await client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=slots))
    return f"limit {name}: {slots}"


async def put_automation(wanted: AutomationCore) -> str:
    """Create an automation or update the one of the same name; Prefect alone would double it."""
    async with get_client() as client:
        present = await client.read_automations_by_name(wanted.name)
        if present:
            await client.update_automation(present[0].id, wanted)
            for extra in present[1:]:
                await client.delete_automation(extra.id)
        else:
            await Automation(**wanted.model_dump()).acreate()
    return f"automation {wanted.name}"


def deploy_all() -> list[str]:
    """Deploy every entry of ``prefect.yaml``.

    ``DISTRUST_ROOT`` stays unset here, so that each worker puts in its own folder at run time.

    Raises:
        PrerequisiteError: Prefect refused a deployment; the message carries its words.
    """
    environment = {key: value for key, value in os.environ.items() if key != "DISTRUST_ROOT"}
    answer = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"],
        cwd=HERE.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode != 0:
        raise PrerequisiteError(f"prefect deploy --all failed:\n{answer.stdout[-3000:]}{answer.stderr[-3000:]}")
    content = yaml.safe_load((HERE.parent / "prefect.yaml").read_text("utf-8"))
    return [f"deployment {entry['name']}/{entry['name']}" for entry in content["deployments"]]
