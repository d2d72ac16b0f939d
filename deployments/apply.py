"""Bring a server to the state that this project describes; doing it again changes nothing.

The order is: pools, paces of archives, block types, every deployment of ``prefect.yaml``, then the automations, some of
which start deployments. What a user chose in the UI stays: switched schedules, schedules of the user's own, pauses.
"""

from __future__ import annotations

import subprocess
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from prefect.blocks.core import Block
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import (
    DeploymentScheduleCreate,
    DeploymentUpdate,
    GlobalConcurrencyLimitCreate,
    GlobalConcurrencyLimitUpdate,
    WorkPoolCreate,
    WorkPoolUpdate,
)
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound

from blocks.corpus_store import CorpusStore
from blocks.hugging_face import HuggingFaceHub
from blocks.internet_archive import InternetArchive
from blocks.library_of_congress import LibraryOfCongress
from blocks.training_host import TrainingHost
from deployments.automations import Change, compare, put_automations, switch_automation
from deployments.project import Entry, Pool, Project, read_limits, read_project

HERE = Path(__file__).resolve().parent
BLOCKS: tuple[type[Block], ...] = (InternetArchive, LibraryOfCongress, HuggingFaceHub, CorpusStore, TrainingHost)


async def apply(*, dry_run: bool = False, notify: str = "") -> list[Change]:
    """Apply everything to the server that ``PREFECT_API_URL`` names; a dry run only says what would change.

    `notify` is type slug and name of the block that gets the notifications, such as ``slack-webhook/alerts``; empty:
    the one chosen earlier, or none.

    Raises:
        ParameterError: There is no such notification block.
    """
    limits, project = read_limits(), read_project()
    version = version_of_checkout()
    async with get_client() as client:
        things = [
            *(pool_thing(client, name, pool) for name, pool in limits.pools.items()),
            *(pace_thing(client, name, per_second) for name, per_second in limits.paces.items()),
            *(block_thing(client, block) for block in BLOCKS),
            *(deployment_thing(client, entry, project, version) for entry in project.deployments),
        ]
        changes = [await thing.put(dry_run=dry_run) for thing in things]
        return changes + await put_automations(client, notify, dry_run=dry_run)


async def switch(names: Sequence[str], *, on: bool) -> list[Change]:
    """Switch schedules, by their slugs, and automations, such as the links of the event chain, on or off.

    Raises:
        ParameterError: The server has no schedule and no automation of such a name.
    """
    async with get_client() as client:
        return [
            await switch_schedule(client, name, on=on) or await switch_automation(client, name, on=on) for name in names
        ]


@dataclass(frozen=True)
class Thing:
    """Something on the server: how it should be, and how to read, create and update it."""

    kind: str
    name: str
    wanted: Mapping[str, Any]
    read: Callable[[], Awaitable[Mapping[str, Any]]]
    create: Callable[[], Awaitable[object]]
    update: Callable[[], Awaitable[object]]

    async def put(self, *, dry_run: bool) -> Change:
        """Create it, or update it if it differs; return what changed."""
        try:
            change = compare(self.kind, self.name, await self.read(), self.wanted)
        except ObjectNotFound:
            change = Change("+", self.kind, self.name)
        if change.sign != "=" and not dry_run:
            await (self.create if change.sign == "+" else self.update)()
        return change


def pool_thing(client: PrefectClient, name: str, pool: Pool) -> Thing:
    """Describe a pool of process workers."""
    wanted: dict[str, Any] = {"description": pool.description, "concurrency_limit": pool.concurrency}

    async def read() -> Mapping[str, Any]:
        return vars(await client.read_work_pool(name))

    create = partial(client.create_work_pool, WorkPoolCreate(name=name, type="process", **wanted))
    return Thing("pool", name, wanted, read, create, partial(client.update_work_pool, name, WorkPoolUpdate(**wanted)))


def pace_thing(client: PrefectClient, name: str, per_second: float) -> Thing:
    """Describe the rate limit of an archive; a burst is ten requests or ten seconds of its pace."""
    wanted = {"limit": max(10, round(10 * per_second)), "slot_decay_per_second": per_second}

    async def read() -> Mapping[str, Any]:
        return vars(await client.read_global_concurrency_limit_by_name(name))

    create = partial(client.create_global_concurrency_limit, GlobalConcurrencyLimitCreate(name=name, **wanted))
    update = partial(client.update_global_concurrency_limit, name, GlobalConcurrencyLimitUpdate(**wanted))
    return Thing("pace", name, wanted, read, create, update)


def block_thing(client: PrefectClient, block: type[Block]) -> Thing:
    """Describe a block type with its newest schema."""
    slug = block.get_block_type_slug()

    async def read() -> Mapping[str, Any]:
        await client.read_block_type_by_slug(slug)
        try:
            await client.read_block_schema_by_checksum(block._calculate_schema_checksum())
        except ObjectNotFound:
            return {"fields": "older"}
        return {"fields": "newest"}

    register = partial(block.aregister_type_and_schema, client=client)
    return Thing("block", slug, {"fields": "newest"}, read, register, register)


def version_of_checkout() -> str:
    """Return what git calls this state of the project, ``-dirty`` when files were changed; empty outside a checkout."""
    try:
        command = ["git", "describe", "--always", "--dirty"]
        answer = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""


def deployment_thing(client: PrefectClient, entry: Entry, project: Project, version: str) -> Thing:
    """Describe an entry of ``prefect.yaml``.

    Prefect fills in ``DISTRUST_ROOT`` of the pull steps where a run starts, so that each worker uses its own folder.
    """
    settings: dict[str, Any] = {
        **entry.model_dump(include={"entrypoint", "parameters"}),
        "description": entry.explained(),
        "tags": sorted(entry.tags),
        "work_pool_name": entry.work_pool["name"],
        "parameter_openapi_schema": entry.form(),
        "pull_steps": project.pull,
    }
    if version:
        settings["version"] = version
    schedules = {schedule.slug: schedule.to_create() for schedule in entry.schedules}

    async def read() -> Mapping[str, Any]:
        found = await read_deployment(client, entry.name)
        limit = found.global_concurrency_limit
        return {
            **{key: getattr(found, key) for key in settings},
            "tags": sorted(found.tags),
            "limit": limit.limit if limit else None,
            "schedules": {each.slug: rule(each) for each in found.schedules if each.slug in schedules},
        }

    async def create() -> None:
        flow_id = await client.create_flow_from_name(entry.name)
        new = list(schedules.values())
        await client.create_deployment(flow_id, entry.name, schedules=new, enforce_parameter_schema=True, **settings)

    async def update() -> None:
        found = await read_deployment(client, entry.name)
        await client.update_deployment(found.id, DeploymentUpdate(concurrency_limit=None, **settings))
        await put_schedules(client, found, schedules)

    wanted = {**settings, "limit": None, "schedules": {slug: rule(each) for slug, each in schedules.items()}}
    return Thing("deployment", entry.name, wanted, read, create, update)


async def read_deployment(client: PrefectClient, name: str) -> DeploymentResponse:
    """Read a deployment of the server."""
    return await client.read_deployment_by_name(f"{name}/{name}")


def rule(schedule: DeploymentSchedule | DeploymentScheduleCreate) -> tuple[Any, ...]:
    """What the project decides of a schedule; whether it is on is the user's choice."""
    when = schedule.schedule
    return getattr(when, "cron", None), getattr(when, "timezone", None), schedule.parameters


async def put_schedules(
    client: PrefectClient, found: DeploymentResponse, schedules: Mapping[str, DeploymentScheduleCreate]
) -> None:
    """Add the project's schedules that a deployment lacks, and mend those that differ."""
    present = {schedule.slug: schedule for schedule in found.schedules}
    for slug, wanted in schedules.items():
        if (same := present.get(slug)) is None:
            await client.create_deployment_schedules(found.id, [wanted])
        elif rule(same) != rule(wanted):
            await client.update_deployment_schedule(
                found.id, same.id, active=same.active, schedule=wanted.schedule, parameters=wanted.parameters
            )


async def switch_schedule(client: PrefectClient, slug: str, *, on: bool) -> Change | None:
    """Switch a schedule of ``prefect.yaml`` on or off; none if the server does not have it."""
    known = ((entry, schedule) for entry in read_project().deployments for schedule in entry.schedules)
    for entry, wanted in known:
        if wanted.slug == slug:
            try:
                found = await read_deployment(client, entry.name)
                (present,) = (schedule for schedule in found.schedules if schedule.slug == slug)
            except (ObjectNotFound, ValueError):
                return None
            # Prefect 3.8 empties the parameters of a schedule unless they are sent with the change.
            await client.update_deployment_schedule(found.id, present.id, active=on, parameters=wanted.parameters)
            return Change("=" if present.active == on else "~", "schedule", slug, "on" if on else "off")
    return None
