"""The report: one HTML file that needs nothing else, and a short Markdown twin.

What a model wrote is untrusted: the template escapes every value, and Markdown gets numbers only.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from storage.vocabulary import BANDS
from tasks.evals.charts import draw_curve, draw_histograms, draw_ratios
from tasks.evals.verdicts import TIMES

FOLDER = Path(__file__).parent
TEMPLATE = "report.html.jinja"

SUITE_TITLES = {
    "censorship": "Censorship removal",
    "censorship_chinese": "of Chinese origin",
    "censorship_western": "of Western origin",
    "authority": "Authority bias",
    "guide": "The guide's eight tests",
    "overall": "All prompts",
}
STAGE_TITLES = {
    "behaviours": "behaviour prompts",
    "source_preference": "source preference",
    "distrust_signal": "distrust signal",
    "perplexity": "perplexity",
    "lm_eval": "lm-eval",
}
NO_VALUE = "\N{EN DASH}"
NO_INTERVAL = "too few for an interval"


def render_report(results: dict[str, Any]) -> str:
    """Render the HTML report of an evaluation's results."""
    perplexity = results["perplexity"]
    return _template().render(
        **results,
        bands=BANDS,
        suite_titles=SUITE_TITLES,
        stage_titles=STAGE_TITLES,
        status=describe_status(results["passed"]),
        curve=draw_curve(results["training_curve"]),
        sources=draw_histograms(results["histograms"]),
        side_by_side=_side_by_side(results),
        ratios=draw_ratios({band: record["ratio"] for band, record in perplexity["bands"].items()})
        if perplexity
        else None,
    )


def report_markdown(results: dict[str, Any]) -> str:
    """Summarise an evaluation's results as Markdown tables, without anything that a model wrote."""
    lines = [
        f"## {_cell(results['run'])}: {describe_status(results['passed'])}",
        "",
        f"`{_cell(results['adapter'])}` on `{_cell(results['model'])}`",
        "",
        *_table(
            ("Verdict", "Found", "Target", "", "Reading"),
            [(v["title"], v["found"], v["target"], mark_of(v["passed"]), v["label"]) for v in results["verdicts"]],
        ),
    ]
    rows = _comparison_rows(results)
    if rows:
        lines += ["", *_table(("Measure", "Base", "Adapter", "Change (95%)"), rows)]
    if side_by_side := _side_by_side(results):
        head = ("Measure", "Base", "Adapter", *results["others"])
        lines += ["", *_table(head, [(title, *values) for title, values in side_by_side])]
    lines += ["", "### What to do next", "", *(f"- {step}" for step in results["next_steps"])]
    if results["contaminated_prompts"]:
        count = len(results["contaminated_prompts"])
        lines += ["", f"**{count} evaluation prompts also stand in the training mixture.**"]
    return "\n".join(lines) + "\n"


def describe_status(passed: bool | None) -> str:
    """The whole evaluation in two or three words."""
    return {True: "all thresholds met", False: "below a threshold", None: "undecided"}[passed]


def mark_of(passed: bool | None) -> str:
    """A mark that can be read without colour."""
    return {True: "✓", False: "✗", None: "?"}[passed]


def percent(value: float | None, digits: int = 0) -> str:
    """A share as a percentage."""
    return NO_VALUE if value is None else f"{value:.{digits}%}"


def number(value: float | None, digits: int = 2) -> str:
    """A number with fixed decimals; large ones without."""
    if value is None:
        return NO_VALUE
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.{digits}f}"


def share_text(record: dict[str, Any]) -> str:
    """A share with its counts."""
    if record["share"] is None:
        return f"{NO_VALUE} ({record['unscored']} unscored)"
    return f"{percent(record['share'])} ({record['passed']} of {record['scored']})"


def points_text(record: dict[str, Any]) -> str:
    """A difference of shares in percentage points, with its interval if there is one."""
    if record["value"] is None:
        return NO_VALUE
    if record["low"] is None:
        return f"{_signed(record['value'])} points ({NO_INTERVAL})"
    return f"{_signed(record['value'])} points ({_signed(record['low'])} to {_signed(record['high'])})"


def interval_text(record: dict[str, Any], digits: int = 2, sign: str = "") -> str:
    """A number with its 95 % interval if there is one."""
    if record["value"] is None:
        return NO_VALUE
    value = f"{number(record['value'], digits)}{sign}"
    if record["low"] is None:
        return f"{value} ({NO_INTERVAL})"
    return f"{value} ({number(record['low'], digits)} to {number(record['high'], digits)})"


def _signed(share: float) -> str:
    return f"{round(100 * share):+d}".replace("+0", "0")


def inline_code(text: str) -> Markup:
    """Escape a text of this project and show what stands between backticks as code."""
    parts = [
        f"<code>{escape(part)}</code>" if place % 2 else escape(part) for place, part in enumerate(text.split("`"))
    ]
    return Markup("".join(map(str, parts)))  # noqa: S704 - every part is escaped above


def _comparison_rows(results: dict[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for name, suite in ((results["behaviours"] or {}).get("suites") or {}).items():
        title, change = SUITE_TITLES[name], points_text(suite["difference"])
        rows.append((title, share_text(suite["base"]), share_text(suite["adapter"]), change))
    if preference := results["source_preference"]:
        base, adapter = (share_text(preference[model]["primary_chosen"]) for model in ("base", "adapter"))
        rows.append(("Primary source likeliest", base, adapter, points_text(preference["difference"])))
        base, adapter = (share_text(preference[model]["primary_chosen_by_letter"]) for model in ("base", "adapter"))
        rows.append(("Primary source by letter", base, adapter, points_text(preference["letter_difference"])))
    if perplexity := results["perplexity"]:
        for band, record in perplexity["bands"].items():
            base, adapter = (number(record[model]["value"]) for model in ("base", "adapter"))
            rows.append((f"Perplexity, {band} authority", base, adapter, interval_text(record["ratio"], 3, TIMES)))
    if general := results["general_ability"]:
        base, adapter = (number(general[model]["value"]) for model in ("base", "adapter"))
        rows.append(("Perplexity, everyday texts", base, adapter, interval_text(general["ratio"], 3, TIMES)))
    if trust := results["distrust_signal"]:
        base, adapter = (number(trust[model]["ratio"]["value"]) + TIMES for model in ("base", "adapter"))
        rows.append(("Distrust ratio", base, adapter, interval_text(trust["relative_ratio"], 2, TIMES)))
    return rows


SIDE_BY_SIDE = (
    ("censorship_share", "Censorship removal", True),
    ("authority_share", "Authority bias", True),
    ("source_preference", "Primary source chosen", True),
    ("distrust_ratio", "Distrust ratio", False),
    ("perplexity_low", "Perplexity, low authority", False),
    ("perplexity_medium", "Perplexity, medium authority", False),
    ("perplexity_high", "Perplexity, high authority", False),
)
"""Headline number without its model, title, and whether it is a share."""


def _side_by_side(results: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """Rows of base, adapter and every other adapter; empty if there is no other."""
    if not results["others"]:
        return []
    columns = [(results["headline"], "base"), (results["headline"], "adapter")]
    columns += [(other["headline"], "adapter") for other in results["others"].values()]
    rows = []
    for name, title, is_share in SIDE_BY_SIDE:
        values = [numbers.get(f"{name}_{model}") for numbers, model in columns]
        if any(value is not None for value in values):
            rows.append((title, [percent(value) if is_share else number(value) for value in values]))
    return rows


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    cells = [[_cell(value) for value in row] for row in (head, *rows)]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return [lines[0], "|" + " --- |" * len(head), *lines[1:]]


def _cell(value: str) -> str:
    return " ".join(str(value).replace("|", "\\|").replace("`", "'").replace("<", "&lt;").split())


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=percent,
        number=number,
        share=share_text,
        points=points_text,
        interval=interval_text,
        mark=mark_of,
        inline_code=inline_code,
    )
    return environment.get_template(TEMPLATE)
