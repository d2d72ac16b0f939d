"""``python -m tasks.evals SPEC.json``: evaluate a run in a process of its own, which holds the accelerator."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from storage.errors import ParameterError
from storage.events import Emit, serve_specification
from tasks.evals.evaluate import evaluate_run
from tasks.evals.inputs import EvaluationSpec


def work(specification: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Evaluate what the specification names.

    Raises:
        ParameterError: The specification is wrong.
    """
    try:
        spec = EvaluationSpec.model_validate(specification)
    except ValidationError as error:
        raise ParameterError(f"the evaluation's specification is wrong: {error}") from error
    return evaluate_run(spec, emit).model_dump()


if __name__ == "__main__":
    raise SystemExit(serve_specification(work))
