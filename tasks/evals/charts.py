"""Coordinates of the report's drawings; the template turns them into SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from storage.vocabulary import band_of
from tasks.evals.verdicts import TIMES

CURVE_LINES = (
    ("ce", "train", "training"),
    ("valid_ce", "valid", "validation"),
    ("valid_ce_low", "low", "low authority"),
    ("valid_ce_medium", "medium", "medium authority"),
    ("valid_ce_high", "high", "high authority"),
)
"""Column of the run's metrics, class in the style sheet, legend."""


@dataclass(frozen=True)
class Tick:
    """A mark on an axis at `position` pixels."""

    position: float
    label: str


@dataclass(frozen=True)
class Line:
    """One polyline; `points` as SVG reads them."""

    name: str
    kind: str
    points: str


@dataclass(frozen=True)
class Curve:
    """A line chart of `width` by `height` pixels whose plot begins at (`left`, `top`)."""

    width: int
    height: int
    left: int
    top: int
    right: int
    bottom: int
    lines: list[Line]
    x_ticks: list[Tick]
    y_ticks: list[Tick]


@dataclass(frozen=True)
class Span:
    """An interval on a shared axis, in per cent of its width."""

    name: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Strip:
    """Intervals above one axis, with the place of the value 1."""

    spans: list[Span]
    one: float
    ticks: list[Tick]


def draw_curve(rows: Sequence[Mapping[str, Any]], width: int = 920, height: int = 280) -> Curve | None:
    """Lay out the losses of a run; none if no line has two points."""
    series = []
    for column, kind, name in CURVE_LINES:
        points = [(row["step"], row[column]) for row in rows if _finite(row.get(column))]
        if len(points) >= 2:
            series.append((name, kind, points))
    if not series:
        return None
    steps = [step for *_, points in series for step, _ in points]
    losses = [loss for *_, points in series for _, loss in points]
    first, last = min(steps), max(max(steps), min(steps) + 1)
    y_values = nice_ticks(min(losses), max(losses))
    low, high = float(min(y_values[0], *losses)), float(max(y_values[-1], *losses))
    left, top, right, bottom = 48, 12, width - 16, height - 28

    def x_of(step: float) -> float:
        return round(left + float(step - first) / float(last - first) * (right - left), 1)

    def y_of(loss: float) -> float:
        return round(bottom - float(loss - low) / float(high - low) * (bottom - top), 1)

    lines = [
        Line(name, kind, " ".join(f"{x_of(step)},{y_of(loss)}" for step, loss in points))
        for name, kind, points in series
    ]
    x_ticks = [Tick(x_of(step), f"{step:g}") for step in nice_ticks(first, last) if first <= step <= last]
    return Curve(
        width, height, left, top, right, bottom, lines, x_ticks, [Tick(y_of(loss), f"{loss:g}") for loss in y_values]
    )


def draw_ratios(estimates: Mapping[str, Mapping[str, Any]]) -> Strip | None:
    """Lay out ratios with their intervals on a logarithmic axis around 1; none if no ratio has an interval."""
    known = {name: record for name, record in estimates.items() if record["low"] is not None}
    if not known:
        return None
    reach = max(abs(math.log(record[end])) for record in known.values() for end in ("low", "high", "value"))
    reach = max(reach * 1.15, math.log(1.05))

    def place(ratio: float) -> float:
        return round(50 + 50 * math.log(ratio) / reach, 2)

    spans = [
        Span(name, place(record["value"]), place(record["low"]), place(record["high"]))
        for name, record in known.items()
    ]
    ticks = [
        Tick(place(value), f"{value:.2f}{TIMES}") for value in (math.exp(-reach / 1.15), 1.0, math.exp(reach / 1.15))
    ]
    return Strip(spans, place(1.0), ticks)


@dataclass(frozen=True)
class Histogram:
    """The samples of one source: bars as (left, height) in per cent of the plot, and how many there are."""

    source: str
    samples: int
    authority: list[tuple[float, float]]
    entropy: list[tuple[float, float]]
    width: float
    """Of a bar, in per cent."""
    kind: str
    """Band of the mean authority of its samples, a class in the style sheet."""


def draw_histograms(counts: Mapping[str, Mapping[str, Sequence[int]]]) -> list[Histogram]:
    """Lay out the histograms of the sources, the lowest authority first; every plot has its own height."""
    drawn = []
    for source, columns in counts.items():
        authority = columns["auth_weight"]
        total, bins = sum(authority), len(authority)
        centre = sum(count * (place + 0.5) / bins for place, count in enumerate(authority)) / max(1, total)
        bars = [
            [
                (round(100 * place / bins, 2), round(100 * count / max(columns[name]), 2))
                for place, count in enumerate(columns[name])
                if count
            ]
            for name in ("auth_weight", "prov_entropy")
        ]
        drawn.append((centre, Histogram(source, total, bars[0], bars[1], 100 / bins, band_of(centre))))
    return [histogram for _, histogram in sorted(drawn, key=lambda pair: (pair[0], pair[1].source))]


def nice_ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round values that cover [low, high], about `wanted` of them."""
    if high <= low:
        high = low + max(abs(low) * 0.1, 1e-6)
    raw = (high - low) / max(1, wanted - 1)
    magnitude = 10 ** math.floor(math.log10(raw))
    step = next(size * magnitude for size in (1, 2, 2.5, 5, 10) if size * magnitude >= raw * 0.999)
    start, end = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 10) for index in range(start, end + 1)]


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
