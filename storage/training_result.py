"""What a training run writes about itself: ``run.json`` when it begins, ``result.json`` when it has finished."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from storage.atomic import write_json
from storage.errors import StoreError
from storage.safe_paths import checked_file
from storage.untrusted import read_object

RESULT = "result.json"
RUN = "run.json"


class DataFacts(BaseModel):
    """The training data of a run in numbers."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    Z: float
    """Mean weight of the supervised tokens, by which every weight is divided."""
    effective_sample_share: float
    most_repeats: float
    """How often an epoch draws the heaviest sequence; 1 without importance sampling."""
    tokens: int
    """Supervised tokens."""
    mean_empirical_distrust: float
    """Published distrust term, mean over the supervised tokens."""
    train_samples: int
    train_sequences: int
    valid_samples: int


class RunFacts(DataFacts):
    """What is trained, on which data."""

    model: str
    model_path: str
    trainable: int
    parameters: int


class RunRecord(RunFacts):
    """``run.json``: what evaluation and export need to know of a run."""

    balanced: str
    mixture_digest: str
    recipe: dict[str, Any]
    device: dict[str, str]
    layout: str
    """How the base model was spoken to; see `storage.chat_layout.ChatLayout.name`."""

    def write(self, run: Path) -> None:
        """Write the record into the folder of its run."""
        write_json(run / RUN, self.model_dump(mode="json"))


class BestStep(BaseModel):
    """The saved step with the lowest validation objective."""

    model_config = ConfigDict(frozen=True)

    step: int
    valid_objective: float
    valid_ce: float


class TrainingResult(RunFacts):
    """``result.json``: what a finished run reached. Losses in nats per supervised token, before and after."""

    steps: int
    length: dict[str, int | float]
    early_stop: int | None = None
    adapter: str
    """Folder of the last checkpoint: relative to the run on disk, a whole path as the result of a flow."""
    best: BestStep | None
    train_ce: float | None
    valid_ce_before: float | None = None
    valid_ce_after: float | None = None
    valid_objective_before: float | None = None
    valid_objective_after: float | None = None
    valid_ce_low_before: float | None = None
    valid_ce_low_after: float | None = None
    valid_ce_medium_before: float | None = None
    valid_ce_medium_after: float | None = None
    valid_ce_high_before: float | None = None
    valid_ce_high_after: float | None = None
    valid_preference_before: float | None = None
    valid_preference_after: float | None = None
    valid_consistency_before: float | None = None
    valid_consistency_after: float | None = None
    valid_anchor_before: float | None = None
    valid_anchor_after: float | None = None
    trained_tokens: int
    skipped_steps: int
    seconds: float
    recipe_digest: str
    data_digest: str

    def write(self, run: Path) -> None:
        """Write the result into the folder of its run; bands that were not measured are left out."""
        write_json(run / RESULT, self.model_dump(mode="json", exclude_unset=True))

    def summary(self) -> list[str]:
        """Steps, loss before and after, and the adapter."""
        before, after = self.valid_ce_before, self.valid_ce_after
        measured = before is not None and after is not None
        validated = f"validation cross-entropy {before:.3f} -> {after:.3f}" if measured else "not validated"
        return [f"{self.steps} steps; {validated}", f"adapter {self.adapter}"]


class TrainedRun(BaseModel):
    """The parts of a finished run that later stages read; paths are absolute."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    adapter: Path
    model_path: Path
    balanced: Path
    digest_parts: dict[str, Any]
    """What identifies the adapter: recipe, data and step."""


def read_training_result(run: Path) -> TrainedRun:
    """Read what later stages need of a finished run.

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
