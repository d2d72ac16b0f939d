"""The deployments of ``prefect.yaml``: only those that differ from the server's are deployed again.

``prefect deploy`` makes a deployment what the file says, which would switch off the schedules that a user switched on
and delete those that a user made; both are put back.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

import yaml
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound
from prefect.utilities.callables import parameter_schema

from deployments.changes import Change, compare
from storage.errors import PrerequisiteError

ROOT = Path(__file__).resolve().parent.parent
VERSION = "DISTRUST_VERSION"
"""Environment variable from which ``prefect.yaml`` takes the version of every deployment."""


def read_deployments() -> dict[str, dict[str, Any]]:
    """Read the deployments of ``prefect.yaml`` by name; each carries the name of its flow."""
    content = yaml.safe_load((ROOT / "prefect.yaml").read_text("utf-8"))
    return {entry["name"]: entry for entry in content["deployments"]}


def version_of_checkout() -> str:
    """Return what git calls this state of the project, ``-dirty`` when files were changed; empty outside a checkout."""
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""


async def deploy_changed(client: PrefectClient, *, dry_run: bool) -> list[Change]:
    """Deploy what is new or differs; a user's schedules and pauses stay as they are.

    Raises:
        PrerequisiteError: Prefect refused a deployment; the message carries its words.
    """
    version = version_of_checkout()
    before: dict[str, DeploymentResponse | None] = {}
    changes: dict[str, Change] = {}
    for name, entry in read_deployments().items():
        before[name] = found = await read_deployment(client, name)
        wanted = describe_wanted(entry, version)
        described = describe_found(found, frozenset(wanted["schedules"])) if found else None
        changes[name] = compare("deployment", name, described, wanted)
    differing = [name for name, change in changes.items() if change.sign != "="]
    if differing and not dry_run:
        deploying = asyncio.create_task(asyncio.to_thread(run_deploy, differing, version))
        try:
            await asyncio.shield(deploying)
        finally:
            # Also when it fails half-way or is interrupted, and only once it has ended: it writes until then.
            await asyncio.gather(deploying, return_exceptions=True)
            for earlier in filter(None, (before[name] for name in differing)):
                await restore_choices(client, earlier)
    return list(changes.values())


async def read_deployment(client: PrefectClient, name: str) -> DeploymentResponse | None:
    """Read a deployment of the server, if it is there."""
    try:
        return await client.read_deployment_by_name(f"{name}/{name}")
    except ObjectNotFound:
        return None


def describe_wanted(entry: dict[str, Any], version: str) -> dict[str, Any]:
    """Describe an entry of ``prefect.yaml`` in the terms of :func:`describe_found`."""
    module, attribute = entry["entrypoint"].rsplit(".", 1)
    flow = getattr(importlib.import_module(module), attribute)
    limit = entry.get("concurrency_limit") or {}
    wanted = {
        "entrypoint": entry["entrypoint"],
        "description": entry["description"],
        "tags": sorted(entry["tags"]),
        "parameters": entry["parameters"],
        "pool": entry["work_pool"]["name"],
        "limit": limit.get("limit"),
        "on collision": limit.get("collision_strategy"),
        "form": parameter_schema(flow).model_dump(mode="json", exclude_unset=True),
        "schedules": {
            schedule["slug"]: (schedule["cron"], schedule["timezone"], schedule.get("parameters", {}))
            for schedule in entry.get("schedules", [])
        },
    }
    return wanted | ({"version": version} if version else {})


def describe_found(deployment: DeploymentResponse, own: frozenset[str]) -> dict[str, Any]:
    """Describe a deployment of the server; of its schedules only the project's `own`, by slug."""
    limit, options = deployment.global_concurrency_limit, deployment.concurrency_options
    return {
        "entrypoint": deployment.entrypoint,
        "description": deployment.description,
        "tags": sorted(deployment.tags),
        "parameters": deployment.parameters,
        "pool": deployment.work_pool_name,
        "limit": limit.limit if limit else None,
        "on collision": options.collision_strategy.value if limit and options else None,
        "form": deployment.parameter_openapi_schema,
        "schedules": {
            schedule.slug: (
                getattr(schedule.schedule, "cron", None),
                getattr(schedule.schedule, "timezone", None),
                schedule.parameters,
            )
            for schedule in deployment.schedules
            if schedule.slug in own
        },
        "version": deployment.version,
    }


def run_deploy(names: list[str], version: str) -> None:
    """Run ``prefect deploy`` for some entries of ``prefect.yaml``.

    ``DISTRUST_ROOT`` stays unset here, so that each worker puts in its own folder at run time.
    """
    environment = {key: value for key, value in os.environ.items() if key != "DISTRUST_ROOT"} | {VERSION: version}
    chosen = [part for name in names for part in ("--name", name)]
    answer = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", "deploy", *chosen],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode != 0:
        raise PrerequisiteError(f"prefect deploy failed:\n{answer.stdout[-3000:]}{answer.stderr[-3000:]}")


async def restore_choices(client: PrefectClient, earlier: DeploymentResponse) -> None:
    """Put back what a user chose in the UI: switched schedules, schedules of the user's own, a paused deployment."""
    now = await client.read_deployment(earlier.id)
    project = {schedule["slug"] for schedule in read_deployments()[earlier.name].get("schedules", [])}
    present = {schedule.slug: schedule for schedule in now.schedules if schedule.slug in project}
    kept = {(str(schedule.schedule), schedule.slug) for schedule in now.schedules}
    for schedule in earlier.schedules:
        if schedule.slug in project:
            same = present.get(schedule.slug)
            if same is not None and same.active != schedule.active:
                await set_schedule(client, earlier.id, same, active=schedule.active)
        elif (str(schedule.schedule), schedule.slug) not in kept:
            await add_schedule(client, earlier.id, schedule)
    if earlier.paused and not now.paused:
        await client.pause_deployment(earlier.id)


async def set_schedule(client: PrefectClient, deployment: UUID, schedule: DeploymentSchedule, *, active: bool) -> None:
    """Switch a schedule on or off; Prefect 3.8 empties the parameters of a schedule unless they are sent with it."""
    await client.update_deployment_schedule(deployment, schedule.id, active=active, parameters=schedule.parameters)


async def switch_schedule(client: PrefectClient, slug: str, *, on: bool) -> Change | None:
    """Switch a schedule of ``prefect.yaml`` on or off, with its parameters; none if no deployment has it."""
    for name, entry in read_deployments().items():
        given = {schedule["slug"]: schedule.get("parameters", {}) for schedule in entry.get("schedules", [])}
        found = await read_deployment(client, name) if slug in given else None
        if found is None:
            continue
        for schedule in found.schedules:
            if schedule.slug == slug:
                whole = schedule.model_copy(update={"parameters": given[slug]})
                await set_schedule(client, found.id, whole, active=on)
                return Change("=" if schedule.active == on else "~", "schedule", slug, "on" if on else "off")
    return None


async def add_schedule(client: PrefectClient, deployment: UUID, schedule: DeploymentSchedule) -> None:
    """Give a deployment a schedule that it had before."""
    fields = schedule.model_dump(include={"active", "max_scheduled_runs", "parameters", "slug"})
    await client.create_deployment_schedules(
        deployment, [DeploymentScheduleCreate(schedule=schedule.schedule, **fields)]
    )
