"""Prefect silently ignores unknown keys of prefect.yaml, so the file is checked here, key by key."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import Flow

from deployments.apply import read_limits
from flows.__main__ import FLOWS

CONTENT: dict[str, Any] = yaml.safe_load((Path(__file__).resolve().parents[2] / "prefect.yaml").read_text("utf-8"))
DEPLOYMENTS = {entry["name"]: entry for entry in CONTENT["deployments"]}
TOP_KEYS = {"name", "prefect-version", "pull", "definitions", "deployments"}
KEYS = {
    "name",
    "entrypoint",
    "description",
    "tags",
    "parameters",
    "work_pool",
    "schedules",
    "version",
    "triggers",
}
SCHEDULE_KEYS = {"cron", "timezone", "active", "slug", "parameters"}


def flow_of(entrypoint: str) -> Flow[Any, Any]:
    module, name = entrypoint.rsplit(".", 1)
    flow = getattr(importlib.import_module(module), name)
    assert isinstance(flow, Flow)
    return flow


def test_only_known_keys() -> None:
    assert set(CONTENT) == TOP_KEYS
    for name, entry in DEPLOYMENTS.items():
        assert set(entry) <= KEYS, name
        for schedule in entry.get("schedules", []):
            assert set(schedule) <= SCHEDULE_KEYS, name


def test_every_flow_is_deployed_under_its_own_name() -> None:
    assert set(DEPLOYMENTS) == set(FLOWS)


@pytest.mark.parametrize("name", FLOWS)
def test_entrypoint_and_parameters_match_the_flow(name: str) -> None:
    entry = DEPLOYMENTS[name]
    flow = flow_of(entry["entrypoint"])
    assert flow.name == name
    for given in [entry.get("parameters", {}), *(s.get("parameters", {}) for s in entry.get("schedules", []))]:
        assert set(given) <= set(flow.parameters.properties), name
        flow.validate_parameters(given)


@pytest.mark.parametrize("name", FLOWS)
def test_the_form_shows_every_field_of_the_model_described(name: str) -> None:
    flow = flow_of(DEPLOYMENTS[name]["entrypoint"])
    fields = flow.fn.parameters_model.model_fields
    properties = flow.parameters.properties
    assert list(properties) == list(fields)
    for field, shown in properties.items():
        assert shown.get("description"), f"{name}.{field} has no description"
        assert "default" in shown, f"{name}.{field} has no literal default"


def test_schedules_wait_for_the_user() -> None:
    schedules = [schedule for entry in DEPLOYMENTS.values() for schedule in entry.get("schedules", [])]
    assert schedules and not any(schedule["active"] for schedule in schedules)


def test_no_deployment_takes_a_lease() -> None:
    """A killed run would leave it behind, and a server that was away would end the run that holds it."""
    assert not any("concurrency_limit" in entry for entry in DEPLOYMENTS.values())


def test_schedules_that_refresh_ask_for_what_is_new() -> None:
    """Without `refresh`, a source that is sealed is left alone."""
    given = {schedule["slug"]: schedule["parameters"] for schedule in DEPLOYMENTS["download-corpus"]["schedules"]}
    assert given == {
        "weekly-newspapers": {"sources": ["historical_newspapers"], "refresh": True},
        "monthly-refresh": {"refresh": True},
    }


def test_pools_exist_and_training_has_one_slot() -> None:
    pools = read_limits()["pools"]
    assert {entry["work_pool"]["name"] for entry in DEPLOYMENTS.values()} == set(pools)
    assert pools["mac-train"]["concurrency"] == 1


def test_the_working_directory_stays_a_template() -> None:
    step = CONTENT["pull"][0]["prefect.deployments.steps.set_working_directory"]
    assert step == {"directory": "{{ $DISTRUST_ROOT }}"}
