"""A comparison of training runs as Prefect sees it: a table, two pictures, and a row for each run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prefect import task
from prefect.artifacts import acreate_image_artifact, acreate_markdown_artifact

from storage.atomic import write_json, write_text
from storage.layout import Layout
from tasks.lora import comparison
from tasks.lora.curve import as_address, draw_lines
from tasks.lora.metrics import gap_line, read_metrics
from tasks.lora.recipe import Recipe
from tasks.policies import LOCAL_WORK

PICTURES = {
    "effect": ("How much worse coordinated sources are predicted than primary ones", gap_line),
    "loss": (
        "Validation",
        lambda rows: [(row["step"], row["valid_ce"]) for row in rows if row["valid_ce"] is not None],
    ),
}


def plan_comparison(run: str, recipe: Recipe, choices: Mapping[str, Sequence[Any]]) -> dict[str, Recipe]:
    """Return the recipes to train by run name."""
    return {f"{run}-{suffix}": variant for suffix, variant in comparison.variants(recipe, choices).items()}


def row_of(run: str, result: Mapping[str, Any] | Exception) -> dict[str, Any]:
    """Return the row of a run, finished or failed."""
    return {"run": run, "problem": str(result)} if isinstance(result, Exception) else comparison.row_of(run, result)


@task(task_run_name="report-comparison-{name}", **LOCAL_WORK)
async def report_comparison(layout: Layout, name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Write the table and the pictures into the store, and show them in the UI."""
    folder = layout.comparison(name)
    table = comparison.as_markdown(rows)
    write_json(folder / "comparison.json", rows)
    write_text(folder / "comparison.md", table + "\n")
    await acreate_markdown_artifact(key="recipe-comparison", markdown=table, description=f"Runs of {name}.")
    metrics = {row["run"]: read_metrics(layout.run(row["run"])) for row in rows if "problem" not in row}
    pictures = []
    for kind, (title, line_of) in PICTURES.items():
        lines = {run.removeprefix(f"{name}-"): line_of(measured) for run, measured in metrics.items()}
        if (picture := draw_lines(title, lines, "nats per token")) is None:
            continue
        write_text(folder / f"{kind}.svg", picture)
        pictures.append(str(folder / f"{kind}.svg"))
        await acreate_image_artifact(
            image_url=as_address(picture), key=f"recipe-comparison-{kind}", description=f"{title}; runs of {name}."
        )
    return {"folder": str(folder), "rows": rows, "table": comparison.table_of(rows), "pictures": pictures}
