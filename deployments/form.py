"""The form of a flow in the UI; Prefect itself would show code names of fields, and a text where there is a choice."""

from __future__ import annotations

from typing import Any

from prefect import Flow
from prefect.utilities.callables import parameter_schema

from flows.groups import titles
from storage.vocabulary import SOURCE_TYPES


def form_of(flow: Flow[..., Any]) -> dict[str, object]:
    """Describe the form of a flow, with titles that name the group of a field."""
    schema: dict[str, Any] = parameter_schema(flow).model_dump(mode="json", exclude_unset=True)
    for name, title in titles(flow.name, vars(flow.fn)["parameters_model"]):
        schema["properties"][name]["title"] = title
    if choice := schema["properties"].get("source_type"):
        choice["enum"] = list(SOURCE_TYPES)
    return schema
