"""Losses over steps as a picture: a small SVG that needs nothing but a browser."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 920, 360
LEFT, TOP, RIGHT, BOTTOM = 56, 40, 720, 316
"""Edges of the plot; the legend stands to the right of it."""
COLOURS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#be185d", "#4d7c0f")
"""Each reads on white and on black."""

Points = Sequence[tuple[float, float]]


def draw_lines(title: str, series: Mapping[str, Points], y_name: str) -> str | None:
    """Draw lines over training steps.

    Args:
        title: What is shown.
        series: (step, value) pairs by name; a line needs two of them, and values that are not finite are left out.
        y_name: The quantity, with its unit.

    Returns:
        An SVG document; none if there is no line.
    """
    finite = {name: [(x, y) for x, y in points if math.isfinite(y)] for name, points in series.items()}
    lines = {name: points for name, points in finite.items() if len(points) >= 2}
    if not lines:
        return None
    xs = [x for points in lines.values() for x, _ in points]
    ys = [y for points in lines.values() for _, y in points]
    x_marks, y_marks = round_values(min(xs), max(xs)), round_values(min(ys), max(ys))
    across, up = _Scale(min(xs), max(xs), LEFT, RIGHT), _Scale(y_marks[0], y_marks[-1], BOTTOM, TOP)
    parts = [_text(LEFT, 22, title, "start", bold=True), _text(RIGHT, HEIGHT - 6, "step", "end")]
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


def as_address(svg: str) -> str:
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


class _Scale:
    """A linear map from values to pixels."""

    def __init__(self, low: float, high: float, start: int, end: int) -> None:
        self._low, self._start = low, start
        self._rate = (end - start) / ((high - low) or 1.0)

    def __call__(self, value: float) -> float:
        return round(self._start + (value - self._low) * self._rate, 1)


def _text(x: float, y: float, words: str, anchor: str, *, bold: bool = False) -> str:
    weight = ' font-weight="600"' if bold else ""
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="#333"{weight}>{escape(words)}</text>'
