"""The report of a run as it trains: lines for people, events for the parent process, rows for later, a tracker."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import mlx.core as mx
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from storage.errors import ParameterError, PrerequisiteError
from storage.events import Emit
from storage.parquet import write_shard
from storage.safe_paths import open_no_link
from tasks.lora.display import METRICS, METRICS_SCHEMA, StepReport, read_metrics
from tasks.lora.recipe import Recipe
from tasks.lora.step import WindowMeans
from tasks.lora.validation import Validation

TRAINING_LOG = "training.log"
MAX_SKIPPED_IN_A_ROW = 10
"""Steps in a row without a finite gradient after which the run gives up."""
TENSORBOARD_FLUSH_SECONDS = 5
WANDB_PROJECT = "empirical-distrust"


Track = Callable[[str, int, dict[str, float]], None]
"""Takes the kind of a report (``train`` or ``valid``), the step, and the numbers by name."""


def open_tracker(recipe: Recipe, run: Path) -> Track:
    """Return what passes the numbers on to the program that the recipe asks for; PrerequisiteError without it."""
    try:
        if recipe.report_to == "tensorboard":
            from tensorboardX import SummaryWriter

            writer = SummaryWriter(str(run / "tensorboard"), flush_secs=TENSORBOARD_FLUSH_SECONDS)

            def write(kind: str, step: int, numbers: dict[str, float]) -> None:
                for name, value in numbers.items():
                    writer.add_scalar(f"{kind}/{name}", value, step)

            return write
        if recipe.report_to == "wandb":
            wandb = import_module("wandb")
            wandb.init(project=WANDB_PROJECT, dir=str(run), name=run.name, config=recipe.model_dump(mode="json"))
            return lambda kind, step, numbers: wandb.log({"iteration": step, **numbers}, step=step)
    except ImportError as error:
        raise PrerequisiteError(
            f"report_to {recipe.report_to} needs a library that is missing ({error}): install it with "
            "`.uv/bin/uv sync --extra tracking`, or set report_to to files"
        ) from error
    return lambda kind, step, numbers: None


class RunReport:
    """Writes the log, the events and the metrics of a run; a resumed run continues all three.

    `step` and `tokens` were done before this process.
    """

    def __init__(self, folder: Path, recipe: Recipe, emit: Emit, step: int, tokens: int, track: Track) -> None:
        self._folder, self._recipe, self._parent, self._track = folder, recipe, emit, track
        earlier = read_metrics(folder).filter(pc.field("step") <= step) if step else METRICS_SCHEMA.empty_table()
        self._rows: list[dict[str, Any]] = earlier.to_pylist()
        self._first_step, self._tokens, self._window_tokens = step, tokens, 0
        self._began = self._window_began = time.perf_counter()
        mx.reset_peak_memory()

    @property
    def seconds(self) -> float:
        """Wall time of this process in the loop."""
        return time.perf_counter() - self._began

    def log(self, line: str) -> None:
        """Write a line to the log and to the parent."""
        self._write(line)
        self._emit("log", message=line)

    def _emit(self, event: str, **fields: Any) -> None:
        # A parent that died must not keep its trainer from saving a checkpoint.
        with suppress(BrokenPipeError):
            self._parent(event, **fields)

    def _write(self, line: str) -> None:
        with open(self._folder / TRAINING_LOG, "a", encoding="utf-8", opener=open_no_link) as log:
            log.write(line + "\n")

    def count(self, tokens: int) -> None:
        """Count the tokens of a finished step."""
        self._tokens += tokens
        self._window_tokens += tokens

    def pause_clock(self, seconds: float) -> None:
        """Leave the time of a validation or checkpoint out of the tokens per second."""
        self._window_began += seconds

    def steps(self, step: int, means: WindowMeans, learning_rate: float) -> None:
        """Report the steps since the last report."""
        now, last = time.perf_counter(), self._recipe.max_steps
        report = StepReport(
            step=step,
            max_steps=last,
            ce=means.ce,
            distrust=means.distrust,
            total=means.ce + self._recipe.lambda_weight * means.distrust,
            tokens_per_second=self._window_tokens / max(now - self._window_began, 1e-9),
            peak_memory_gb=mx.get_peak_memory() / 1e9,
            seconds_left=(now - self._began) / max(1, step - self._first_step) * (last - step),
            terms=means.terms,
        )
        self._window_tokens, self._window_began = 0, now
        rate = {"learning_rate": learning_rate, "grad_norm": means.grad_norm, "clipped_share": means.clipped_share}
        self._rows.append(report.model_dump() | rate | means.terms | {"kind": "train", "tokens": self._tokens})
        done, left = tqdm.format_interval(now - self._began), tqdm.format_interval(report.seconds_left)
        self._write(f"Training: {step / last:4.0%} | {step}/{last} [{done}<{left}, {report.numbers}]")
        self._emit("progress", **report.model_dump())
        numbers = {  # the first names are those of mlx-lm's trainer
            "train_loss": report.total,
            "learning_rate": learning_rate,
            "tokens_per_second": report.tokens_per_second,
            "trained_tokens": self._tokens,
            "peak_memory": report.peak_memory_gb,
            "cross_entropy": report.ce,
            "distrust": report.distrust,
            "grad_norm": means.grad_norm,
            **means.terms,
        }
        self._track("train", step, numbers)

    def skip(self, number: int, in_a_row: int, rate: float) -> None:
        """Report a step that changed nothing because its loss or gradient was not finite; give up after many."""
        self.log(f"Step {number} skipped: its loss or gradient is not finite")
        if in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise ParameterError(
                f"{in_a_row} steps in a row had a loss or gradient that is not finite, the last one step "
                f"{number} (learning rate {rate:g}); the last checkpoint is kept: start again with a "
                f"lower learning_rate, for example {rate / 4:.1g}, in a new run"
            )

    def validation(self, step: int, result: Validation) -> None:
        """Report a validation."""
        fields = result.fields()
        self._rows.append({"step": step, "kind": "valid", **fields})
        bands = ", ".join(f"{band}={value:.4f}" for band, value in result.bands.items())
        terms = "".join(f", {term}={value:.4f}" for term, value in result.terms.items())
        self.log(f"Validation at step {step}: ce={result.ce:.4f} ({bands}), objective={result.objective:.4f}{terms}")
        self._emit("validation", step=step, max_steps=self._recipe.max_steps, **fields)
        self._track("valid", step, {"val_loss": result.ce, **fields})

    def checkpoint(self, step: int, folder: Path) -> None:
        """Report a checkpoint and save the metrics up to it."""
        write_shard(self._folder / METRICS, pa.Table.from_pylist(self._rows, schema=METRICS_SCHEMA), METRICS_SCHEMA)
        self.log(f"Saving checkpoint to {folder}")
        self._emit("checkpoint", step=step, path=str(folder))
