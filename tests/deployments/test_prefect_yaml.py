"""Prefect silently ignores unknown keys of prefect.yaml, so the file is checked here, key by key."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from prefect import Flow
from pydantic import ValidationError

from deployments.project import HERE, Project, read_limits, read_project
from flows.__main__ import FLOWS
from flows.groups import in_order

DEPLOYMENTS = {entry.name: entry for entry in read_project().deployments}
SCHEDULES = [schedule for entry in DEPLOYMENTS.values() for schedule in entry.schedules]


def flow_of(name: str) -> Flow[..., Any]:
    return DEPLOYMENTS[name].load_flow()


def form_of(name: str) -> Any:
    return DEPLOYMENTS[name].form()["properties"]


def test_only_known_keys_and_no_lease() -> None:
    """A concurrency limit would be a lease: a killed run leaves it behind, a server that was away ends its holder."""
    content = yaml.safe_load((HERE.parent / "prefect.yaml").read_text("utf-8"))
    assert set(content) == {"name", "prefect-version", "pull", "definitions", "deployments"}
    step = content["pull"][0]["prefect.deployments.steps.set_working_directory"]
    assert step == {"directory": "{{ $DISTRUST_ROOT }}"}, "a template, which each worker fills in"
    content["deployments"][0]["concurrency_limit"] = 1
    with pytest.raises(ValidationError, match="concurrency_limit"):
        Project.model_validate(content)


def test_every_flow_is_deployed_under_its_own_name() -> None:
    assert set(DEPLOYMENTS) == set(FLOWS)
    assert {name: flow_of(name).name for name in FLOWS} == {name: name for name in FLOWS}


def test_the_parameters_of_deployments_and_schedules_are_those_of_the_flow() -> None:
    for name, entry in DEPLOYMENTS.items():
        for given in (entry, *entry.schedules):
            flow_of(name).validate_parameters(given.parameters)
    with pytest.raises(Exception, match="bogus"):
        flow_of("score-corpus").validate_parameters({"bogus": 1})


def test_the_form_shows_every_field_of_the_model_described() -> None:
    bare = []
    for name in FLOWS:
        flow = flow_of(name)
        shown = flow.parameters.properties
        assert list(shown) == in_order(name, flow.fn.parameters_model.model_fields), name
        bare += [f"{name}.{field}" for field in shown if not {"description", "default"} <= shown[field].keys()]
    assert bare == []


def test_a_form_begins_with_the_essentials_and_names_the_group_of_the_rest() -> None:
    fields = form_of("corpus-to-model")
    shown = [fields[name]["title"] for name in sorted(fields, key=lambda name: fields[name]["position"])]
    assert shown[:3] == ["Base model", "Optimiser steps", "Your own documents"]
    assert [title for title in shown[:8] if " • " in title] == []
    assert all(" • " in title for title in shown[8:])
    assert "Training: adapter • LoRA rank" in shown and "unknown" in fields["source_type"]["enum"]
    for name in DEPLOYMENTS:
        form = form_of(name)
        assert not [field for field, shown in form.items() if shown["title"] == field], name


def test_schedules_wait_for_the_user_and_ask_for_what_is_new_and_one_training_runs_at_a_time() -> None:
    """Without `refresh`, a source that is sealed is left alone; two trainings at once would not fit the memory."""
    assert not any(schedule.active for schedule in SCHEDULES)
    given = {schedule.slug: schedule.parameters for schedule in DEPLOYMENTS["download-corpus"].schedules}
    assert given == {
        "weekly-newspapers": {"sources": ["historical_newspapers"], "refresh": True},
        "monthly-refresh": {"refresh": True},
    }
    pools = read_limits().pools
    assert {entry.work_pool["name"] for entry in DEPLOYMENTS.values()} == set(pools)
    assert pools["mac-train"].concurrency == 1


def test_a_name_that_exists_is_chosen_and_another_one_is_typed() -> None:
    form: Any = next(each for each in read_project().deployments if each.name == "download-corpus").form()
    chosen, typed = form["properties"]["sources"]["items"]["anyOf"]
    assert "wikipedia" in chosen["enum"] and typed["type"] == "string" and "enum" not in typed
    assert "mac-16gb" in form["properties"]["recipe"]["anyOf"][0]["enum"]
    assert "anyOf" not in form["properties"]["source_type"], "which takes no others"
