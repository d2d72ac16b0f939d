"""What a finished training run leaves for evaluation and export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from storage.errors import StoreError
from storage.safe_paths import checked_file
from storage.untrusted import read_object

RESULT = "result.json"
RUN = "run.json"


class TrainedRun(BaseModel):
    """The parts of a finished run that later stages read; paths are absolute."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    adapter: Path
    model_path: Path
    balanced: Path
    digest_parts: dict[str, Any]
    """What identifies the adapter: recipe, data and step."""


def read_training_result(run: Path) -> TrainedRun:
    """Read the result of a finished run.

    Raises:
        StoreError: The run has not finished, or its files are damaged.
    """
    try:
        result, record = read_object(run / RESULT), read_object(run / RUN)
        return TrainedRun(
            adapter=run / checked_file(result["adapter"]),
            model_path=result["model_path"],
            balanced=record["balanced"],
            digest_parts={key: result[key] for key in ("steps", "recipe_digest", "data_digest")},
        )
    except FileNotFoundError as error:
        raise StoreError(
            f"{run} holds no finished training; finish it first: python -m flows train-adapter --run {run.name}"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{run} holds a damaged result ({error!r}); run train-adapter again") from error
