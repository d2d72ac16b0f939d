"""A comparison of training runs as Prefect sees it: a table and two pictures."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
from prefect import task
from prefect.artifacts import acreate_image_artifact, acreate_markdown_artifact

from storage.atomic import write_json, write_text
from storage.layout import Layout
from tasks.lora.comparison import ComparedRun, Comparison
from tasks.lora.display import Points, as_data_url, draw_lines, gap_line, line_of, read_metrics
from tasks.policies import LOCAL_WORK

PICTURES: dict[str, tuple[str, Callable[[pa.Table], Points]]] = {
    "effect": ("How much worse coordinated sources are predicted than primary ones", gap_line),
    "loss": ("Validation", lambda metrics: line_of(metrics, "valid_ce")),
}


@task(task_run_name="report-comparison-{name}", **LOCAL_WORK)
async def report_comparison(layout: Layout, name: str, rows: list[ComparedRun]) -> Comparison:
    """Write the table and the pictures into the store, and show them in the UI."""
    folder = layout.comparison(name)
    comparison = Comparison(folder=folder, rows=rows)
    table = comparison.markdown()
    write_json(folder / "comparison.json", [row.model_dump(mode="json", exclude_unset=True) for row in rows])
    write_text(folder / "comparison.md", table + "\n")
    await acreate_markdown_artifact(key="recipe-comparison", markdown=table, description=f"Runs of {name}.")
    metrics = {row.run: read_metrics(layout.run(row.run)) for row in rows if row.problem is None}
    for kind, (title, line) in PICTURES.items():
        lines = {run.removeprefix(f"{name}-"): line(measured) for run, measured in metrics.items()}
        if (picture := draw_lines(title, lines, "nats per token")) is None:
            continue
        write_text(folder / f"{kind}.svg", picture)
        comparison.pictures.append(folder / f"{kind}.svg")
        await acreate_image_artifact(
            image_url=as_data_url(picture), key=f"recipe-comparison-{kind}", description=f"{title}; runs of {name}."
        )
    return comparison
