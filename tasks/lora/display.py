"""A run for a person who watches: lines and a bar while it trains, curves of what it measured. Knows nothing of mlx."""

from __future__ import annotations

import base64
import math
import sys
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict
from tqdm import tqdm

from storage.parquet import read_shard
from tasks.lora.recipe import TERMS

METRICS = "metrics.parquet"
NUMBERS = ["ce", "distrust", "total", "learning_rate", "grad_norm", "clipped_share"]
SPEED = ["tokens_per_second", "peak_memory_gb"]
VALIDATION = ["valid_ce", "valid_objective", "valid_ce_low", "valid_ce_medium", "valid_ce_high"]
TERM_COLUMNS = [f"{kind}{term}" for kind in ("", "valid_") for term in TERMS]
METRICS_SCHEMA = pa.schema(
    [
        pa.field("step", pa.int64(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        *(pa.field(name, pa.float64()) for name in NUMBERS),
        pa.field("tokens", pa.int64()),
        *(pa.field(name, pa.float64()) for name in SPEED + VALIDATION),
        *(pa.field(name, pa.float64()) for name in TERM_COLUMNS),
    ]
)
"""One row a report (``kind`` = train: means since the last report) or validation (``kind`` = valid).

Losses are nats per supervised token; ``total`` = ``ce`` + lambda * ``distrust``; ``tokens`` counts since step 0.
A further term has a value where it is switched on, without its weight: ``preference`` is a mean over pairs,
``consistency`` over repeated claims, ``anchor`` over tokens of ordinary samples.
"""
LEGEND = {
    "ce": "training",
    "valid_ce": "validation",
    "valid_ce_low": "low authority",
    "valid_ce_high": "high authority",
}
WIDTH, HEIGHT = 920, 360
LEFT, TOP, RIGHT, BOTTOM = 56, 40, 720, 316
"""Edges of the plot; the legend stands to the right of it."""
COLOURS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#be185d", "#4d7c0f")
"""Each reads on white and on black."""

Points = Sequence[tuple[float, float]]


class StepReport(BaseModel):
    """The ``progress`` event of a training: means over the steps since the last one, as the guide shows them."""

    model_config = ConfigDict(frozen=True)

    step: int
    max_steps: int
    ce: float
    distrust: float
    total: float
    tokens_per_second: float
    peak_memory_gb: float
    seconds_left: float
    terms: dict[str, float] = {}
    """Terms that are switched on, without their weights."""

    @property
    def numbers(self) -> str:
        """The numbers as the guide prints them."""
        terms = "".join(f"{term}={value:.4f}, " for term, value in self.terms.items())
        return (
            f"loss={self.total:.4f}, ce={self.ce:.4f}, distrust={self.distrust:.4f}, {terms}"
            f"tok/s={self.tokens_per_second:.1f}, mem={self.peak_memory_gb:.1f}GB"
        )

    @property
    def line(self) -> str:
        """The report as one line of a log."""
        return f"step {self.step}/{self.max_steps}: {self.numbers}, {tqdm.format_interval(self.seconds_left)} left"


def training_bar(stream: TextIO | None = None, *, hidden: bool = False) -> tqdm[Any]:
    """Return a bar that is drawn at the first report; disabled where there is no terminal, as in a worker's log."""
    file = stream or sys.stderr
    return tqdm(desc="Training", file=file, disable=hidden or None, dynamic_ncols=True, mininterval=0, delay=1e-9)


def move_bar(bar: tqdm[Any], report: StepReport) -> None:
    """Bring the bar up to a report."""
    if bar.total is None:
        bar.reset(report.max_steps)
        bar.initial = report.step
    bar.set_postfix_str(report.numbers, refresh=False)
    bar.update(report.step - bar.n)
    bar.refresh()


def read_metrics(run: Path) -> pa.Table:
    """Read what a run has measured, oldest first; no rows if it has reported nothing yet."""
    path = run / METRICS
    return read_shard(path, METRICS_SCHEMA) if path.is_file() else METRICS_SCHEMA.empty_table()


def line_of(metrics: pa.Table, column: str) -> Points:
    """Return a measured quantity as (step, value), where it was measured."""
    rows = metrics.select(["step", column]).drop_null().to_pydict()
    return list(zip(rows["step"], rows[column], strict=True))


def loss_lines(metrics: pa.Table) -> dict[str, Points]:
    """Return the lines of a run's loss curve by legend: (step, nats per token)."""
    return {legend: line_of(metrics, column) for column, legend in LEGEND.items()}


def gap_line(metrics: pa.Table) -> Points:
    """Return how much worse coordinated sources are predicted than primary ones: (step, nats per token)."""
    gap = pc.subtract(metrics["valid_ce_high"], metrics["valid_ce_low"])
    return line_of(metrics.append_column("gap", gap), "gap")


def draw_lines(title: str, series: Mapping[str, Points], y_name: str) -> str | None:
    """Draw named lines of (step, value) as an SVG document; none if no line has two values that are finite."""
    finite = {name: [(x, y) for x, y in points if math.isfinite(y)] for name, points in series.items()}
    lines = {name: points for name, points in finite.items() if len(points) >= 2}
    if not lines:
        return None
    xs = [x for points in lines.values() for x, _ in points]
    ys = [y for points in lines.values() for _, y in points]
    x_marks, y_marks = round_values(min(xs), max(xs)), round_values(min(ys), max(ys))

    def across(x: float) -> float:
        return round(LEFT + (x - min(xs)) * (RIGHT - LEFT) / ((max(xs) - min(xs)) or 1.0), 1)

    def up(y: float) -> float:
        return round(BOTTOM + (y - y_marks[0]) * (TOP - BOTTOM) / (y_marks[-1] - y_marks[0]), 1)

    parts = [_text(LEFT, 22, title, "start", ' font-weight="600"'), _text(RIGHT, HEIGHT - 6, "step", "end")]
    parts.append(_text(8, TOP - 10, y_name, "start"))
    for y in y_marks:
        parts.append(f'<path d="M{LEFT} {up(y)}H{RIGHT}" stroke="#8884" fill="none"/>')
        parts.append(_text(LEFT - 6, up(y) + 4, f"{y:g}", "end"))
    parts += [_text(across(x), BOTTOM + 18, f"{x:g}", "middle") for x in x_marks if min(xs) <= x <= max(xs)]
    for number, (name, points) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        dash = ' stroke-dasharray="6 4"' if number >= len(COLOURS) else ""
        path = " ".join(f"{across(x)},{up(y)}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
        row = TOP + 12 + 20 * number
        parts.append(f'<path d="M{RIGHT + 14} {row - 4}h18" stroke="{colour}" stroke-width="3"{dash}/>')
        parts.append(_text(RIGHT + 38, row, name, "start"))
    height = max(HEIGHT, TOP + 24 + 20 * len(lines))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'font-family="system-ui, sans-serif" font-size="12"><rect width="100%" height="100%" fill="#fff"/>'
        f"{''.join(parts)}</svg>"
    )


def _text(x: float, y: float, words: str, anchor: str, style: str = "") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="#333"{style}>{escape(words)}</text>'


def as_data_url(svg: str) -> str:
    """Return a picture as a ``data:`` address, which an artifact can carry."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode("utf-8")).decode("ascii")


def round_values(low: float, high: float, wanted: int = 5) -> list[float]:
    """Return round values that cover [low, high], about `wanted` of them."""
    if high <= low:
        high = low + max(abs(low) * 0.1, 1e-6)
    raw = (high - low) / (wanted - 1)
    magnitude = 10 ** math.floor(math.log10(raw))
    step = next(size * magnitude for size in (1, 2, 2.5, 5, 10) if size * magnitude >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 10) for index in range(first, last + 1)]
