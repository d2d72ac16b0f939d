"""The report: one HTML file that needs nothing else, and a short Markdown twin.

What a model wrote is untrusted: the template escapes every value, and Markdown gets numbers only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from storage.markdown import cell, table
from storage.vocabulary import Band, band_of
from tasks.evals.behaviours import TITLES
from tasks.evals.estimates import Estimate, number, percent
from tasks.evals.inputs import CurveRow
from tasks.evals.invented_facts import COPIES
from tasks.evals.mixture import Histogram
from tasks.evals.repetition import CurveOfModel, Curves
from tasks.evals.results import EvaluationResults
from tasks.evals.section import Side
from tasks.evals.verdicts import MARKS, STATUS, TIMES, Verdict

TEMPLATE = Path(__file__).with_name("report.html.jinja")

STAGE_TITLES = {
    "behaviours": "behaviour prompts",
    "source_preference": "source preference",
    "distrust_signal": "distrust signal",
    "repetition": "repetition",
    "perplexity": "perplexity",
    "lm_eval": "lm-eval",
}
FIRST_ROWS = (
    ("source_preference", "Primary source chosen", "source_preference", percent),
    ("distrust_signal", "Distrust ratio", "distrust_ratio", number),
    ("repetition", "Original believed against 8 copies", "repetition", percent),
    ("perplexity_shift", "Perplexity of primary over coordinated texts", "perplexity_shift", number),
    ("authority", "Asks for the evidence", "authority_share", percent),
    ("censorship", "Answers what others refuse", "censorship_share", percent),
)
"""Name of the relative verdict, title, headline number without its model, and how it is written."""
SIDE_BY_SIDE = (
    ("censorship_share", "Censorship removal", percent),
    ("authority_share", "Authority bias", percent),
    ("source_preference", "Primary source chosen", percent),
    ("distrust_ratio", "Distrust ratio", number),
    ("repetition", "Original believed against 8 copies", percent),
    ("perplexity_low", "Perplexity, low authority", number),
    ("perplexity_medium", "Perplexity, medium authority", number),
    ("perplexity_high", "Perplexity, high authority", number),
)
"""Headline number without its model, title, and how it is written."""
PLOT = (460, 230, 48, 26)
"""Width and height of a plot of repetition, and the room for labels at its left and below it."""
TOY = (
    "This model is a toy, too small to know language: its answers show that the pipeline works, and nothing of what "
    "the method does. Perplexity is what it can show."
)
CURVE_LINES = (
    ("ce", "train", "training"),
    ("valid_ce", "valid", "validation"),
    ("valid_ce_low", "low", "low authority"),
    ("valid_ce_medium", "medium", "medium authority"),
    ("valid_ce_high", "high", "high authority"),
)
"""Column of the run's metrics, class in the style sheet, legend."""


def render_report(results: EvaluationResults) -> str:
    """Render the HTML report of an evaluation's results."""
    bands = results.perplexity.bands if results.perplexity else {}
    return _template().render(
        **dict(results),
        suite_titles=TITLES,
        stage_titles=STAGE_TITLES,
        status=STATUS[results.passed],
        toy_note=TOY if results.toy else None,
        curve=draw_curve(results.training_curve),
        sources=draw_histograms(results.histograms),
        first_rows=_first_rows(results),
        repetition_plots=_repetition_plots(results),
        side_by_side=_side_by_side(results),
        ratios=draw_ratios({band: found.ratio for band, found in bands.items()}),
    )


def report_markdown(results: EvaluationResults) -> str:
    """Summarise an evaluation's results as Markdown tables, without anything that a model wrote."""
    verdicts = [(v.title, v.found, v.target, MARKS[v.passed], v.label) for v in results.verdicts]
    parts = [
        f"## {cell(results.run)}: {STATUS[results.passed]}",
        f"`{cell(results.adapter)}` on `{cell(results.model)}`",
        results.conclusion + (f" {TOY}" if results.toy else ""),
        table(("Verdict", "Found", "Target", "", "Reading"), verdicts),
    ]
    if rows := results.outcome().table_rows:
        parts.append(table(("Measure", "Base", "Adapter", "Change (95%)"), rows))
    if side_by_side := _side_by_side(results):
        head = ("Measure", "Base", "Adapter", *results.others)
        parts.append(table(head, [(title, *values) for title, values in side_by_side]))
    parts += ["### What to do next", "\n".join(f"- {step}" for step in results.next_steps)]
    if count := len(results.contaminated_prompts):
        parts.append(f"**{count} evaluation prompts also stand in the training mixture.**")
    return "\n\n".join(parts) + "\n"


def _first_rows(results: EvaluationResults) -> list[tuple[str, str, str, Verdict]]:
    """Measure, base, adapter, and the verdict on the change, for each that was measured."""
    judged = {verdict.name: verdict for verdict in results.relative}
    rows = []
    for name, title, key, write in FIRST_ROWS:
        if name in judged:
            base, adapter = (write(results.headline.get(f"{key}_{side}")) for side in ("base", "adapter"))
            rows.append((title, base, adapter, judged[name]))
    return rows


def _repetition_plots(results: EvaluationResults) -> list[tuple[str, Plot]]:
    """The curve over all facts, and those of institutions and persons, each with its title."""
    if not (found := results.repetition):
        return []
    titles = {"institution": "copies by institutions", "person": "copies by persons"}
    parts: list[tuple[str, Curves]] = [("all facts", found)]
    parts += [(titles[who], curves) for who, curves in found.publishers.items()]
    return [(f"{title} ({curves.facts})", draw_repetition(curves)) for title, curves in parts]


def _side_by_side(results: EvaluationResults) -> list[tuple[str, list[str]]]:
    """Rows of base, adapter and every other adapter; empty if there is no other."""
    if not results.others:
        return []
    columns = [(results.headline, "base"), (results.headline, "adapter")]
    columns += [(other.headline, "adapter") for other in results.others.values()]
    rows = []
    for name, title, write in SIDE_BY_SIDE:
        values = [numbers.get(f"{name}_{side}") for numbers, side in columns]
        if any(value is not None for value in values):
            rows.append((title, [write(value) for value in values]))
    return rows


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


def inline_code(text: str) -> Markup:
    """Escape a text of this project and show what is between backticks as code."""
    parts = [
        f"<code>{escape(part)}</code>" if place % 2 else escape(part) for place, part in enumerate(text.split("`"))
    ]
    return Markup("".join(map(str, parts)))  # noqa: S704 - every part is escaped above


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, number=number, mark=MARKS.__getitem__, inline_code=inline_code)
    return environment.get_template(TEMPLATE.name)
