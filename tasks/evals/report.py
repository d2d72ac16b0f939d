"""The report: one HTML file that needs nothing else, and a short Markdown twin.

What a model wrote is untrusted: the template escapes every value, and Markdown gets numbers only.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from storage.markdown import cell, table
from tasks.evals.behaviours import TITLES
from tasks.evals.drawings import Plot, draw_curve, draw_histograms, draw_ratios, draw_repetition
from tasks.evals.estimates import number, percent
from tasks.evals.harness import TASK
from tasks.evals.repetition import Curves
from tasks.evals.results import HEADLINES, EvaluationResults
from tasks.evals.verdicts import MARKS, MEANINGS, STATUS, Verdict

TEMPLATE = Path(__file__).with_name("report.html.jinja")

TOY = (
    "This model is a toy, too small to know language: its answers show that the pipeline works, and nothing of what "
    "the method does. Perplexity is what it can show."
)


def render_report(results: EvaluationResults) -> str:
    """Render the HTML report of an evaluation's results."""
    bands = results.perplexity.bands if results.perplexity else {}
    return _template().render(
        **dict(results),
        suite_titles=TITLES,
        status=STATUS[results.passed],
        meanings=MEANINGS,
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
    judged, shown = {verdict.name: verdict for verdict in results.relative}, results.headline
    public = ((name, name, f"lm-eval: {judged[name].title}", number) for name in judged if name.startswith(TASK))
    return [
        (title, write(shown.get(f"{key}_base")), write(shown.get(f"{key}_adapter")), judged[name])
        for key, name, title, write in (*HEADLINES, *public)
        if name in judged
    ]


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
    for name, _, title, write in HEADLINES:
        values = [numbers.get(f"{name}_{side}") for numbers, side in columns]
        if any(value is not None for value in values):
            rows.append((title, [write(value) for value in values]))
    return rows


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
