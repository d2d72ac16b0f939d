"""What the report draws: curves, intervals and histograms, placed in pixels or per cent for the template."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from storage.vocabulary import Band, band_of
from tasks.evals.estimates import Estimate, percent
from tasks.evals.inputs import CurveRow
from tasks.evals.invented_facts import COPIES
from tasks.evals.mixture import Histogram
from tasks.evals.repetition import Curves
from tasks.evals.verdicts import TIMES

SMALL, WIDE = (460, 230), (920, 280)
"""Width and height of a plot in pixels."""
LEFT, RIGHT, TOP, BELOW = 48, 20, 12, 28
"""Room around the lines of a plot, for labels at the left and below."""
CURVE_LINES = (
    ("ce", "train", "training"),
    ("valid_ce", "valid", "validation"),
    ("valid_ce_low", "low", "low authority"),
    ("valid_ce_medium", "medium", "medium authority"),
    ("valid_ce_high", "high", "high authority"),
)
"""Column of the run's metrics, class in the style sheet, legend."""

Value = tuple[float, float, float, float]
"""Place on the horizontal axis, value, and the ends of its interval; without an interval both ends are the value."""


class Point(NamedTuple):
    """One point of a line with its interval, all in pixels."""

    x: float
    y: float
    top: float
    bottom: float


class Plot(NamedTuple):
    """Lines and labels in a box of so many pixels."""

    width: int
    height: int
    lines: list[tuple[str, str, list[Point]]]
    """Name, class in the style sheet, and points."""
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]


def _plot(
    size: tuple[int, int],
    lines: Sequence[tuple[str, str, Sequence[Value]]],
    x_range: tuple[float, float],
    x_labels: Sequence[tuple[float, str]],
    write: Callable[[float], str],
) -> Plot:
    """Place lines in a box; the vertical axis covers every value and interval."""
    (width, height), (first, last) = size, x_range
    ends = [end for *_, points in lines for _, *values in points for end in values]
    ticks = nice_ticks(min(ends), max(ends))

    def x(place: float) -> float:
        return round(LEFT + (place - first) / (last - first) * (width - LEFT - RIGHT), 1)

    def y(value: float) -> float:
        return round(TOP + (ticks[-1] - value) / (ticks[-1] - ticks[0]) * (height - BELOW - TOP), 1)

    return Plot(
        *size,
        [
            (name, kind, [Point(x(at), y(value), y(high), y(low)) for at, value, low, high in points])
            for name, kind, points in lines
        ],
        [(x(place), label) for place, label in x_labels],
        [(y(tick), write(tick)) for tick in ticks],
    )


def draw_curve(rows: Sequence[CurveRow]) -> Plot | None:
    """Place the losses of a run; None if no line has two points."""
    lines = []
    for column, kind, name in CURVE_LINES:
        points = [(_number(row["step"]), *(_number(row.get(column)),) * 3) for row in rows]
        known = [point for point in points if math.isfinite(point[1])]
        if len(known) >= 2:
            lines.append((name, kind, known))
    if not lines:
        return None
    steps = [step for *_, points in lines for step, *_ in points]
    first, last = min(steps), max(*steps, min(steps) + 1)
    labels = [(step, f"{step:g}") for step in nice_ticks(first, last) if first <= step <= last]
    return _plot(WIDE, lines, (first, last), labels, lambda loss: f"{loss:g}")


def _number(value: float | str | None) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan


def nice_ticks(low: float, high: float) -> list[float]:
    """Return round values that cover [low, high], about five of them."""
    if high <= low:
        high = low + max(abs(low) * 0.1, 1e-6)
    raw = (high - low) / 4
    magnitude = 10 ** math.floor(math.log10(raw))
    step = next(size * magnitude for size in (1, 2, 2.5, 5, 10) if size * magnitude >= raw * 0.999)
    start, end = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 10) for index in range(start, end + 1)]


def draw_repetition(curves: Curves) -> Plot:
    """Place the probability of the original in both models; every step to the right doubles the copies."""

    def value(place: int, found: Estimate) -> Value:
        middle = found.value or 0.0
        low, high = (middle if end is None else end for end in (found.low, found.high))
        return place, middle, low, high

    lines = [
        (side, side, [value(place, found.probability) for place, found in enumerate(model.curve.values())])
        for side, model in (("base", curves.base), ("adapter", curves.adapter))
    ]
    labels = [(place, str(copies)) for place, copies in enumerate(COPIES)]
    return _plot(SMALL, lines, (-0.3, len(COPIES) - 0.7), labels, percent)


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
