"""What this project describes in ``prefect.yaml`` and ``limits.toml``: deployments, schedules, pools, paces."""

from __future__ import annotations

import importlib
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from prefect import Flow
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.schedules import CronSchedule
from prefect.utilities.callables import parameter_schema
from pydantic import BaseModel, ConfigDict

from flows.completion import names_of
from flows.groups import titles
from flows.help import COMMAND, EXAMPLES

HERE = Path(__file__).resolve().parent


class Pool(BaseModel):
    """A work pool of ``limits.toml``."""

    description: str
    concurrency: int


class Limits(BaseModel):
    """``limits.toml``: pools by name, and requests per second by the name of a pace."""

    paces: dict[str, float]
    pools: dict[str, Pool]


class Schedule(BaseModel):
    """A schedule of ``prefect.yaml``."""

    model_config = ConfigDict(extra="forbid")

    slug: str
    cron: str
    timezone: str
    active: bool
    parameters: dict[str, Any] = {}

    def to_create(self) -> DeploymentScheduleCreate:
        """Describe it to the server."""
        cron = CronSchedule(cron=self.cron, timezone=self.timezone)
        return DeploymentScheduleCreate(schedule=cron, active=self.active, parameters=self.parameters, slug=self.slug)


class Entry(BaseModel):
    """A deployment of ``prefect.yaml``, which carries its flow's name."""

    model_config = ConfigDict(extra="forbid")  # Prefect ignores unknown keys

    name: str
    entrypoint: str
    description: str
    tags: list[str]
    parameters: dict[str, Any]
    work_pool: dict[str, str]
    schedules: list[Schedule] = []

    def load_flow(self) -> Flow[..., Any]:
        """Import its flow."""
        module, attribute = self.entrypoint.rsplit(".", 1)
        flow: Flow[..., Any] = getattr(importlib.import_module(module), attribute)
        return flow

    def form(self) -> dict[str, object]:
        """Describe its form in the UI: titles that name the group of a field, where Prefect would show code names."""
        flow = self.load_flow()
        schema: dict[str, Any] = parameter_schema(flow).model_dump(mode="json", exclude_unset=True)
        for name, title in titles(flow.name, vars(flow.fn)["parameters_model"]):
            schema["properties"][name]["title"] = title
            if names := names_of(flow.name, name):
                offer(schema["properties"][name], names, closed=name == "source_type")
        return schema

    def explained(self) -> str:
        """Describe it in Markdown: what it does, and the same at the command line."""
        lines = [f"# {aim}\n{COMMAND} {self.name} {words}".rstrip() for words, aim in EXAMPLES[self.name].items()]
        return "\n".join([self.description, "", "At the command line:", "", "```bash", *lines, "```"])


def offer(field: dict[str, Any], names: Sequence[str], *, closed: bool) -> None:
    """Let a person choose a name that exists; unless `closed`, another one can be typed.

    Args:
        field: Description of a text, or of a list of texts; it is changed.
        names: What exists.
        closed: Whether the field takes no others.
    """
    place = field["items"] if field.get("type") == "array" else field
    if closed:
        place["enum"] = list(names)
    elif place.get("type") == "string":
        typed = {key: place.pop(key) for key in ("type", "pattern", "minLength") if key in place}
        place["anyOf"] = [
            {"title": "Choose", "type": "string", "enum": list(names)},
            {"title": "Type another", **typed},
        ]


class Project(BaseModel):
    """``prefect.yaml``, which ``prefect deploy --all`` also takes."""

    pull: list[dict[str, Any]]
    deployments: list[Entry]


def read_limits() -> Limits:
    """Read ``limits.toml``."""
    return Limits.model_validate(tomllib.loads((HERE / "limits.toml").read_text("utf-8")))


def read_project() -> Project:
    """Read ``prefect.yaml``."""
    return Project.model_validate(yaml.safe_load((HERE.parent / "prefect.yaml").read_text("utf-8")))
