from __future__ import annotations

from typing import Any

import pytest
from prefect import flow
from prefect.exceptions import ParameterTypeError
from pydantic import Field, ValidationError

from flows.corpus_to_model import CorpusToModelParameters
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
