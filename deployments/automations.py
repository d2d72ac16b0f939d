"""The automations of ``automations.yaml``, created once and updated in place; Prefect alone would double them.

The file decides whether a new automation is switched on; afterwards the user does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import yaml
from prefect.client.orchestration import PrefectClient
from prefect.events.schemas.automations import Automation, AutomationCore
from prefect.exceptions import ObjectNotFound
from pydantic import BaseModel, ConfigDict

from storage.errors import ParameterError

FILE = Path(__file__).resolve().parent / "automations.yaml"
UNKNOWN = UUID(int=0)
"""Stands for what a dry run has not created."""
LONGEST_VALUE = 60


@dataclass(frozen=True)
class Change:
    """One thing on the server: new (``+``), changed (``~``), the same (``=``) or left out (``-``)."""

    sign: Literal["+", "~", "=", "-"]
    kind: str
    name: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.sign} {self.kind:<10} {self.name}" + (f": {self.detail}" if self.detail else "")


def compare(kind: str, name: str, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> Change:
    """Return how something on the server differs from what is wanted."""
    differences = []
    for key, value in wanted.items():
        if (before := found.get(key)) != value:
            is_short = max(len(str(before)), len(str(value))) <= LONGEST_VALUE
            differences.append(f"{key} {before} -> {value}" if is_short else f"{key} (differs)")
    return Change("~" if differences else "=", kind, name, ", ".join(differences))


class Described(BaseModel):
    """An automation of ``automations.yaml``; its actions name deployments and the notified block by name."""

    model_config = ConfigDict(extra="forbid")

    name: str
    description: str
    enabled: bool = True
    trigger: dict[str, Any]
    actions: list[dict[str, Any]]


def read_automations() -> list[Described]:
    """Read ``automations.yaml``."""
    return [Described.model_validate(entry) for entry in yaml.safe_load(FILE.read_text("utf-8"))["automations"]]


async def put_automations(client: PrefectClient, notify: str, *, dry_run: bool) -> list[Change]:
    """Create or update every automation; those that notify are left out until a target is given once.

    Raises:
        ParameterError: There is no notification block of this name.
    """
    target = await find_target(client, notify) if notify else None
    changes = []
    for entry in read_automations():
        present = await client.read_automations_by_name(entry.name)
        block = target or target_of(present)
        if any("block" in action for action in entry.actions) and block is None:
            changes.append(Change("-", "automation", entry.name, "no target; set one with --notify BLOCK-TYPE/NAME"))
            continue
        actions = [await resolve(client, action, block) for action in entry.actions]
        wanted = AutomationCore.model_validate(entry.model_dump() | {"actions": actions})
        changes.append(await put_automation(client, wanted, present, dry_run=dry_run))
    return changes


async def put_automation(
    client: PrefectClient, wanted: AutomationCore, present: list[Automation], *, dry_run: bool
) -> Change:
    """Create an automation, or update the one of the same name and delete its doubles."""
    if not present:
        if not dry_run:
            await client.create_automation(wanted)
        return Change("+", "automation", wanted.name, "on" if wanted.enabled else "off")
    kept, *doubles = present
    wanted = wanted.model_copy(update={"enabled": kept.enabled})
    fields = {"description", "enabled", "trigger", "actions"}
    change = compare("automation", wanted.name, kept.model_dump(include=fields), wanted.model_dump(include=fields))
    if doubles:
        change = Change("~", "automation", wanted.name, f"{len(doubles)} doubles")
    if not dry_run:
        if change.sign == "~":
            await client.update_automation(kept.id, wanted)
        for double in doubles:
            await client.delete_automation(double.id)
    return change


async def resolve(client: PrefectClient, action: Mapping[str, object], block: UUID | None) -> dict[str, object]:
    """Replace the names in an action by the server's ids."""
    resolved = {key: value for key, value in action.items() if key not in ("block", "deployment")}
    if "block" in action:
        resolved["block_document_id"] = block
    if name := action.get("deployment"):
        try:
            resolved["deployment_id"] = (await client.read_deployment_by_name(f"{name}/{name}")).id
        except ObjectNotFound:
            resolved["deployment_id"] = UNKNOWN
    return resolved


def target_of(present: list[Automation]) -> UUID | None:
    """The block that an automation notifies."""
    blocks = (getattr(action, "block_document_id", None) for automation in present for action in automation.actions)
    return next(filter(None, blocks), None)


async def find_target(client: PrefectClient, name: str) -> UUID:
    """Find a notification block by type slug and name; ParameterError if there is none, or it cannot notify."""
    slug, slash, document = name.partition("/")
    advice = "save one in the UI under Blocks (Slack Webhook, Custom Webhook, ...), then name it BLOCK-TYPE/NAME"
    if not slash:
        raise ParameterError(f"notification target {name!r} is not of the form type/name, such as slack-webhook/alerts")
    try:
        found = await client.read_block_document_by_name(document, block_type_slug=slug, include_secrets=False)
    except ObjectNotFound as error:
        raise ParameterError(f"block {name} does not exist; {advice}") from error
    if found.block_schema is None or "notify" not in found.block_schema.capabilities:
        raise ParameterError(f"block {name} cannot notify; {advice}")
    return found.id


async def switch_automation(client: PrefectClient, name: str, *, on: bool) -> Change:
    """Switch an automation on or off; ParameterError if the server has no automation of this name."""
    present = await client.read_automations_by_name(name)
    if not present:
        known = ", ".join(entry.name for entry in read_automations())
        raise ParameterError(f"the server has no schedule or automation {name!r}; automations are {known}. Apply first")
    for automation in present:
        await (client.resume_automation if on else client.pause_automation)(automation.id)
    return Change("=" if present[0].enabled == on else "~", "automation", name, "on" if on else "off")
