"""Bring a server to the state that this project describes; doing it again changes nothing.

In this order: pools, paces of archives, block types, every deployment of ``prefect.yaml``, then the automations, some
of which start deployments. A dry run only reads.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect.blocks.core import Block
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import (
    GlobalConcurrencyLimitCreate,
    GlobalConcurrencyLimitUpdate,
    WorkPoolCreate,
    WorkPoolUpdate,
)
from prefect.exceptions import ObjectNotFound

from blocks.corpus_store import CorpusStore
from blocks.hugging_face import HuggingFaceHub
from blocks.internet_archive import InternetArchive
from blocks.library_of_congress import LibraryOfCongress
from blocks.training_host import TrainingHost
from deployments.automations import put_automations, switch_automation
from deployments.changes import Change, compare
from deployments.deploy import deploy_changed, switch_schedule

HERE = Path(__file__).resolve().parent
BLOCKS: tuple[type[Block], ...] = (InternetArchive, LibraryOfCongress, HuggingFaceHub, CorpusStore, TrainingHost)


def read_limits() -> dict[str, Any]:
    """Read ``limits.toml``."""
    return tomllib.loads((HERE / "limits.toml").read_text("utf-8"))


async def apply(*, dry_run: bool = False, notify: str = "") -> list[Change]:
    """Apply everything to the server that ``PREFECT_API_URL`` names.

    Args:
        dry_run: Only tell what would change; nothing is written to the server.
        notify: Block that gets the notifications, as type slug and name, such as ``slack-webhook/alerts``; empty: the
            one chosen earlier, or none.

    Returns:
        One line per thing, in the order in which it was applied.

    Raises:
        ParameterError: There is no such notification block.
        PrerequisiteError: Prefect refused a deployment.
    """
    limits = read_limits()
    async with get_client() as client:
        changes = [await put_pool(client, name, pool, dry_run=dry_run) for name, pool in limits["pools"].items()]
        changes += [await put_pace(client, name, pace, dry_run=dry_run) for name, pace in limits["paces"].items()]
        changes += [await put_block_type(client, block, dry_run=dry_run) for block in BLOCKS]
        changes += await deploy_changed(client, dry_run=dry_run)
        changes += await put_automations(client, notify, dry_run=dry_run)
    return changes


async def switch(names: Sequence[str], *, on: bool) -> list[Change]:
    """Switch schedules, by their slugs, and automations, such as the links of the event chain, on or off.

    Raises:
        ParameterError: The server has no schedule and no automation of such a name.
    """
    async with get_client() as client:
        return [
            await switch_schedule(client, name, on=on) or await switch_automation(client, name, on=on) for name in names
        ]


async def put_pool(client: PrefectClient, name: str, pool: Mapping[str, Any], *, dry_run: bool) -> Change:
    """Create or update a process pool."""
    wanted = {"description": pool["description"], "concurrency_limit": pool["concurrency"]}
    try:
        change = compare("pool", name, vars(await client.read_work_pool(name)), wanted)
        if change.sign == "~" and not dry_run:
            await client.update_work_pool(name, WorkPoolUpdate(**wanted))
    except ObjectNotFound:
        change = compare("pool", name, None, wanted)
        if not dry_run:
            await client.create_work_pool(WorkPoolCreate(name=name, type="process", **wanted))
    return change


async def put_pace(client: PrefectClient, name: str, per_second: float, *, dry_run: bool) -> Change:
    """Create or update the rate limit of an archive; a burst is ten requests or ten seconds of its pace."""
    wanted = {"limit": max(10, round(10 * per_second)), "slot_decay_per_second": per_second}
    try:
        change = compare("pace", name, vars(await client.read_global_concurrency_limit_by_name(name)), wanted)
        if change.sign == "~" and not dry_run:
            await client.update_global_concurrency_limit(name, GlobalConcurrencyLimitUpdate(**wanted))
    except ObjectNotFound:
        change = compare("pace", name, None, wanted)
        if not dry_run:
            await client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, **wanted))
    return change


async def put_block_type(client: PrefectClient, block: type[Block], *, dry_run: bool) -> Change:
    """Register a block type, or its newer schema."""
    slug = block.get_block_type_slug()
    change = Change("=", "block", slug)
    try:
        await client.read_block_type_by_slug(slug)
        try:
            await client.read_block_schema_by_checksum(block._calculate_schema_checksum())
        except ObjectNotFound:
            change = Change("~", "block", slug, "fields")
    except ObjectNotFound:
        change = Change("+", "block", slug)
    if change.sign != "=" and not dry_run:
        await block.aregister_type_and_schema(client=client)
    return change
