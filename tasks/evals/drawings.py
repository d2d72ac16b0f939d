"""What the report draws: curves, intervals and histograms, placed in pixels or per cent for the template."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from storage.vocabulary import Band, band_of
from tasks.evals.estimates import Estimate, percent
from tasks.evals.inputs import CurveRow
from tasks.evals.invented_facts import COPIES
from tasks.evals.mixture import Histogram
from tasks.evals.repetition import CurveOfModel, Curves
from tasks.evals.section import Side
from tasks.evals.verdicts import TIMES

PLOT = (460, 230, 48, 26)
"""Width and height of a plot of repetition, and the room for labels at its left and below it."""
CURVE_LINES = (
    ("ce", "train", "training"),
    ("valid_ce", "valid", "validation"),
    ("valid_ce_low", "low", "low authority"),
    ("valid_ce_medium", "medium", "medium authority"),
    ("valid_ce_high", "high", "high authority"),
)
"""Column of the run's metrics, class in the style sheet, legend."""


@dataclass(frozen=True)
class Curve:
    """The losses of a run and the ranges of both axes; the template places them."""

    lines: list[tuple[str, str, list[tuple[float, float]]]]
    """Name, class in the style sheet, and (step, loss)."""
    x_ticks: list[float]
    y_ticks: list[float]
    first: float
    last: float
    low: float
    high: float


def draw_curve(rows: Sequence[CurveRow]) -> Curve | None:
    """Choose lines and axes for the losses of a run; None if no line has two points."""
    lines = []
    for column, kind, name in CURVE_LINES:
        points = [(_number(row["step"]), _number(row.get(column))) for row in rows]
        known = [(step, loss) for step, loss in points if math.isfinite(loss)]
        if len(known) >= 2:
            lines.append((name, kind, known))
    if not lines:
        return None
    steps = [step for *_, points in lines for step, _ in points]
    losses = [loss for *_, points in lines for _, loss in points]
    first, last = min(steps), max(*steps, min(steps) + 1)
    x_ticks = [step for step in nice_ticks(first, last) if first <= step <= last]
    y_ticks = nice_ticks(min(losses), max(losses))
    return Curve(lines, x_ticks, y_ticks, first, last, min(y_ticks[0], *losses), max(y_ticks[-1], *losses))


def _number(value: float | str | None) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan


def nice_ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Return round values that cover [low, high], about `wanted` of them."""
    if high <= low:
        high = low + max(abs(low) * 0.1, 1e-6)
    raw = (high - low) / max(1, wanted - 1)
    magnitude = 10 ** math.floor(math.log10(raw))
    step = next(size * magnitude for size in (1, 2, 2.5, 5, 10) if size * magnitude >= raw * 0.999)
    start, end = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 10) for index in range(start, end + 1)]


class Point(NamedTuple):
    """One point of a curve with its interval, all in pixels; without an interval both ends are the point."""

    x: float
    y: float
    top: float
    bottom: float


class Plot(NamedTuple):
    """The probability of the original by the number of copies, in a box of `PLOT` pixels."""

    lines: list[tuple[Side, list[Point]]]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]


def draw_repetition(curves: Curves) -> Plot:
    """Place the curves of both models; every step to the right doubles the copies."""
    width, height, left, below = PLOT
    sides: list[tuple[Side, CurveOfModel]] = [("base", curves.base), ("adapter", curves.adapter)]
    known = [
        (side, [(place, found.probability) for place, found in enumerate(model.curve.values())])
        for side, model in sides
    ]
    ends = [
        end
        for _, points in known
        for _, found in points
        for end in (found.value, found.low, found.high)
        if end is not None
    ]
    ticks = nice_ticks(min(ends), max(ends))

    def y(value: float) -> float:
        return round(12 + (ticks[-1] - value) / (ticks[-1] - ticks[0]) * (height - below - 12), 1)

    def x(place: int) -> float:
        return round(left + (width - left - 20) * (place + 0.3) / (len(COPIES) - 0.4), 1)

    def point(place: int, found: Estimate) -> Point:
        value = found.value or 0.0
        low = value if found.low is None else found.low
        return Point(x(place), y(value), y(value if found.high is None else found.high), y(low))

    return Plot(
        [(side, [point(*each) for each in points]) for side, points in known],
        [(x(place), str(copies)) for place, copies in enumerate(COPIES)],
        [(y(tick), percent(tick)) for tick in ticks],
    )


class Strip(NamedTuple):
    """Intervals on a logarithmic axis with 1 at its middle; all places in per cent of its width."""

    spans: list[tuple[Band, float, float, float]]
    """Name, value, low, high."""
    ticks: list[tuple[float, str]]


def draw_ratios(ratios: Mapping[Band, Estimate]) -> Strip | None:
    """Place ratios with their intervals; None if no ratio has an interval."""
    known = [
        (name, [found.value, found.low, found.high])
        for name, found in ratios.items()
        if found.value is not None and found.low is not None and found.high is not None
    ]
    if not known:
        return None
    widest = max(abs(math.log(value)) for _, values in known for value in values)
    scale = max(widest * 1.15, math.log(1.05))

    def place(ratio: float) -> float:
        return round(50 + 50 * math.log(ratio) / scale, 2)

    ends = (math.exp(-scale / 1.15), 1.0, math.exp(scale / 1.15))
    spans = [(name, place(values[0]), place(values[1]), place(values[2])) for name, values in known]
    return Strip(spans, [(place(end), f"{end:.2f}{TIMES}") for end in ends])


def draw_histograms(counts: Mapping[str, Histogram]) -> list[tuple[str, int, Band, Histogram]]:
    """Return source, samples, band of its mean authority and its counts, the lowest authority first."""
    drawn = []
    for source, columns in counts.items():
        authority = columns["auth_weight"]
        total = sum(authority)
        mean = sum(count * (place + 0.5) / len(authority) for place, count in enumerate(authority)) / max(1, total)
        drawn.append((mean, source, total, columns))
    drawn.sort(key=lambda row: row[:2])
    return [(source, total, band_of(mean), columns) for mean, source, total, columns in drawn]
