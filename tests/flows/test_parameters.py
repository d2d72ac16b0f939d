from __future__ import annotations

from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ParameterTypeError
from prefect.flow_engine import run_flow
from prefect.utilities.names import generate_slug
from pydantic import Field, ValidationError

from flows.corpus_to_model import CorpusToModelParameters
from flows.names import is_made_up, named
from flows.parameters import FlowParameters, takes
from tasks.lora.recipe import Recipe


class Example(FlowParameters):
    count: int = Field(3, ge=1, le=9, description="How many.")
    names: list[str] = Field([], description="Which.")


@flow(name="example")
@takes(Example)
async def example(parameters: Example) -> int:
    """Count something."""
    return parameters.count


async def test_the_model_is_form_bounds_and_argument_of_its_flow() -> None:
    assert list(example.parameters.properties) == ["store", "recipe", "count", "names"]
    count = example.parameters.properties["count"]
    assert (count["minimum"], count["maximum"], count["default"], count["description"]) == (1, 9, 3, "How many.")
    assert example.description is not None and example.description.startswith("Count something.")
    assert example.validate_parameters({"count": 9})["count"] == 9
    with pytest.raises(ParameterTypeError, match="less than or equal to 9"):
        example.validate_parameters({"count": 10})
    assert await example.fn(count=5) == 5
    with pytest.raises(ValidationError):
        await example.fn(count=0)


def test_fields_that_several_flows_share_agree() -> None:
    seen: dict[str, Any] = {}
    for base in CorpusToModelParameters.__mro__[1:]:
        for name, field in getattr(base, "model_fields", {}).items():
            if base is Recipe and name == "model":
                continue  # a person's default picks itself, a recorded recipe names its model
            spelled = repr((field.annotation, field.default, field.metadata))
            assert seen.setdefault(name, spelled) == spelled, f"{name} differs in {base.__name__}"


async def run_as(name: str | None, work: Any, **parameters: Any) -> FlowRun:
    """Run a flow as a worker does: the run was created before, with a name or without."""
    async with get_client() as client:
        created = await client.create_flow_run(work, name=name, parameters=parameters)
        await run_flow(work, flow_run=created, parameters=parameters)
        return await client.read_flow_run(created.id)


@flow(flow_run_name=named("counting-{count}"))
async def counting(count: int) -> int:
    return count


@pytest.mark.prefect
async def test_a_name_that_was_chosen_stays_and_a_run_without_one_gets_that_of_its_flow(prefect_server: None) -> None:
    for name in ("a night on the new corpus", "nightly-run-3", "nightly-zxq", "corpus"):
        assert (await run_as(name, counting, count=3)).name == name
    assert (await run_as(None, counting, count=3)).name == "counting-3"


def test_names_that_prefect_makes_up_are_known() -> None:
    made_up = [generate_slug(2) for _ in range(500)]
    assert [name for name in made_up if not is_made_up(name)] == []
