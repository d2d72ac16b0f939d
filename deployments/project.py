"""What this project describes in ``prefect.yaml`` and ``limits.toml``: deployments, schedules, pools, paces."""

from __future__ import annotations

import importlib
import tomllib
from pathlib import Path
from typing import Any

import yaml
from prefect import Flow
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.schedules import CronSchedule
from prefect.utilities.callables import parameter_schema
from pydantic import BaseModel, ConfigDict

from flows.groups import titles
from storage.vocabulary import SOURCE_TYPES

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
        if choice := schema["properties"].get("source_type"):
            choice["enum"] = list(SOURCE_TYPES)
        return schema


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
