"""Metrics for other programs to show, through the callback interface of mlx-lm's trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlx_lm.tuner.callbacks import TrainingCallback, WandBCallback

from storage.errors import PrerequisiteError
from tasks.lora.recipe import Recipe

WRITE_EVERY_SECONDS = 5
PROJECT = "empirical-distrust"
INSTALL = "install it with `.uv/bin/uv sync --extra tracking`, or set report_to to files"


class TensorBoardCallback(TrainingCallback):  # type: ignore[misc]  # mlx-lm has no types
    """Writes event files that ``tensorboard --logdir`` shows."""

    def __init__(self, folder: Path) -> None:
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(folder), flush_secs=WRITE_EVERY_SECONDS)

    def on_train_loss_report(self, train_info: dict[str, Any]) -> None:
        """Write the means since the last report."""
        self._write("train", train_info)

    def on_val_loss_report(self, val_info: dict[str, Any]) -> None:
        """Write a validation."""
        self._write("valid", val_info)

    def _write(self, kind: str, info: dict[str, Any]) -> None:
        for name, value in info.items():
            if name != "iteration":
                self._writer.add_scalar(f"{kind}/{name}", value, info["iteration"])


def open_tracker(recipe: Recipe, run: Path) -> TrainingCallback | None:
    """Return the callback that the recipe asks for; none for files alone.

    Raises:
        PrerequisiteError: Its library is not installed.
    """
    if recipe.report_to == "files":
        return None
    try:
        if recipe.report_to == "tensorboard":
            return TensorBoardCallback(run / "tensorboard")
        return WandBCallback(PROJECT, str(run), recipe.model_dump(mode="json"))
    except ImportError as error:
        raise PrerequisiteError(
            f"report_to {recipe.report_to} needs a library that is missing ({error}): {INSTALL}"
        ) from error
