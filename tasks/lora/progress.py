"""What a run tells: lines for people, events for the parent process, rows for later."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import pyarrow as pa
from mlx_lm.tuner.callbacks import TrainingCallback

from storage.events import Emit
from storage.parquet import read_shard, write_shard
from storage.safe_paths import open_no_link
from tasks.lora.metrics import METRICS, METRICS_SCHEMA
from tasks.lora.recipe import Recipe
from tasks.lora.step import WindowMeans
from tasks.lora.terminal import clock, describe_numbers
from tasks.lora.validation import Validation

TRAINING_LOG = "training.log"


@dataclass(frozen=True)
class Report:
    """One report of the loop, as the guide shows it."""

    step: int
    ce: float
    distrust: float
    total: float
    tokens_per_second: float
    peak_memory_gb: float
    seconds_left: float


def train_report(report: Report, learning_rate: float, grad_norm: float, tokens: int) -> dict[str, float | int]:
    """Return a report under the names of mlx-lm's trainer, which its callbacks expect, and this project's own."""
    return {
        "iteration": report.step,
        "train_loss": report.total,
        "learning_rate": learning_rate,
        "tokens_per_second": report.tokens_per_second,
        "trained_tokens": tokens,
        "peak_memory": report.peak_memory_gb,
        "cross_entropy": report.ce,
        "distrust": report.distrust,
        "grad_norm": grad_norm,
    }


class Progress:
    """Writes a run's log, events and metrics; a resumed run continues all three.

    Args:
        run: The folder for log and metrics.
        recipe: The recipe.
        emit: Receives the events.
        step: Steps done before this process.
        tokens: Tokens trained on before this process.
        tracker: Another program that is told the numbers.
    """

    def __init__(
        self, run: Path, recipe: Recipe, emit: Emit, step: int, tokens: int, tracker: TrainingCallback | None = None
    ) -> None:
        self._run = run
        self._recipe = recipe
        self._parent = emit
        self._rows = self._rows_before(step)
        self._began = time.perf_counter()
        self._first_step = step
        self._tokens = tokens
        self._window_tokens = 0
        self._window_began = self._began
        self._tracker = tracker
        mx.reset_peak_memory()

    @property
    def tokens(self) -> int:
        """Tokens trained on since step 0, padding left out."""
        return self._tokens

    @property
    def seconds(self) -> float:
        """Wall time of this process in the loop."""
        return time.perf_counter() - self._began

    def _rows_before(self, step: int) -> list[dict[str, float | int | str | None]]:
        path = self._run / METRICS
        if step == 0 or not path.is_file():
            return []
        return [row for row in read_shard(path, METRICS_SCHEMA).to_pylist() if row["step"] <= step]

    def say(self, line: str) -> None:
        """Write a line to the log and to the parent."""
        self._write(line)
        self._emit("log", message=line)

    def _emit(self, event: str, **fields: Any) -> None:
        # A parent that died must not keep its trainer from saving a checkpoint.
        with suppress(BrokenPipeError):
            self._parent(event, **fields)

    def _write(self, line: str) -> None:
        with open(self._run / TRAINING_LOG, "a", encoding="utf-8", opener=open_no_link) as log:
            log.write(line + "\n")

    def count(self, tokens: int) -> None:
        """Count the tokens of a finished step."""
        self._tokens += tokens
        self._window_tokens += tokens

    def pause_clock(self, seconds: float) -> None:
        """Leave the time of a validation or checkpoint out of the tokens per second."""
        self._window_began += seconds

    def report(self, step: int, means: WindowMeans, learning_rate: float) -> Report:
        """Report the steps since the last report."""
        now = time.perf_counter()
        report = Report(
            step=step,
            ce=means.ce,
            distrust=means.distrust,
            total=means.ce + self._recipe.lambda_weight * means.distrust,
            tokens_per_second=self._window_tokens / max(now - self._window_began, 1e-9),
            peak_memory_gb=mx.get_peak_memory() / 1e9,
            seconds_left=self._seconds_left(step, now),
        )
        self._window_tokens, self._window_began = 0, now
        self._rows.append(
            {
                **vars(report),
                "kind": "train",
                "learning_rate": learning_rate,
                "grad_norm": means.grad_norm,
                "clipped_share": means.clipped_share,
                "tokens": self._tokens,
            }
        )
        self._write(self._line(report, now - self._began))
        self._emit("progress", max_steps=self._recipe.max_steps, **vars(report))
        if self._tracker is not None:
            self._tracker.on_train_loss_report(train_report(report, learning_rate, means.grad_norm, self._tokens))
        return report

    def _seconds_left(self, step: int, now: float) -> float:
        """Estimate the rest from the steps of this process."""
        return (now - self._began) / max(1, step - self._first_step) * (self._recipe.max_steps - step)

    def _line(self, report: Report, elapsed: float) -> str:
        last = self._recipe.max_steps
        return (
            f"Training: {report.step / last:4.0%} | {report.step}/{last} "
            f"[{clock(elapsed)}<{clock(report.seconds_left)}, {describe_numbers(vars(report))}]"
        )

    def validation(self, step: int, result: Validation) -> None:
        """Report a validation."""
        fields = result.fields()
        self._rows.append({"step": step, "kind": "valid", **fields})
        bands = ", ".join(f"{band}={value:.4f}" for band, value in result.bands.items())
        self.say(f"Validation at step {step}: ce={result.ce:.4f} ({bands}), objective={result.objective:.4f}")
        self._emit("validation", step=step, max_steps=self._recipe.max_steps, **fields)
        if self._tracker is not None:
            self._tracker.on_val_loss_report({"iteration": step, "val_loss": result.ce, **fields})

    def checkpoint(self, step: int, folder: Path) -> None:
        """Report a checkpoint and save the metrics up to it."""
        table = pa.Table.from_pylist(self._rows, schema=METRICS_SCHEMA)
        write_shard(self._run / METRICS, table, METRICS_SCHEMA)
        self.say(f"Saving checkpoint to {folder}")
        self._emit("checkpoint", step=step, path=str(folder))
