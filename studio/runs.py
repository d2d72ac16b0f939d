"""Training runs of a store, and two of them side by side."""

from __future__ import annotations

import re
from typing import NamedTuple

from storage.errors import StoreError
from storage.layout import NAME_PATTERN, Layout, checked_name
from storage.safe_paths import is_own_file
from storage.training_result import RESULT, RUN, RunRecord, TrainingResult
from storage.untrusted import read_object
from tasks.evals.results import HEADLINES, REPORT, read_results
from tasks.evals.section import SIDES
from tasks.evals.verdicts import MARKS
from tasks.lora.comparison import ComparedRun

MOST_RUNS = 200


class Run(NamedTuple):
    """A run of the list: what its training reached, and whether a report can be opened."""

    name: str
    cells: dict[str, str]
    report: bool
    problem: str


class Row(NamedTuple):
    """One figure of two runs."""

    title: str
    left: str
    right: str

    @property
    def differs(self) -> bool:
        """Whether the two are not equal."""
        return self.left != self.right


def list_runs(layout: Layout) -> list[Run]:
    """List the runs of a store, the newest first."""
    folders = [path for path in (layout.root / "runs").glob("*/") if re.fullmatch(NAME_PATTERN, path.name)]
    newest = sorted(folders, key=lambda path: path.stat().st_mtime, reverse=True)
    return [_read_run(layout, path.name) for path in newest[:MOST_RUNS]]


def _read_run(layout: Layout, name: str) -> Run:
    cells, problem = {}, ""
    try:
        cells = ComparedRun.of(name, read_training(layout, name)).cells()
    except StoreError as error:
        problem = str(error)
    return Run(name, cells, has_report(layout, name), problem)


def has_report(layout: Layout, name: str) -> bool:
    """Tell whether a run was evaluated and the report is a file of the store itself."""
    return is_own_file(layout.root, f"runs/{checked_name(name, 'run name')}/reports/{REPORT}")


def read_training(layout: Layout, name: str) -> TrainingResult:
    """Read what a training reached.

    Raises:
        StoreError: It has not finished, or its files are damaged.
    """
    step = f"finish it first: python -m flows train-adapter --run {name}"
    try:
        return TrainingResult.model_validate(read_object(layout.run(name) / RESULT))
    except FileNotFoundError as error:
        raise StoreError(f"{name} holds no finished training; {step}") from error
    except ValueError as error:
        raise StoreError(f"{name} holds a damaged result; {step}") from error


def compare(layout: Layout, left: str, right: str) -> dict[str, list[Row]]:
    """Lay the figures of two runs side by side, by where they come from.

    Raises:
        StoreError: One of them has not finished, or its files are damaged.
    """
    names = (left, right)
    trained = [ComparedRun.of(name, read_training(layout, name)).cells() for name in names]
    measured = [_read_figures(layout, name) for name in names]
    chosen = [row for row in _rows(*(_read_recipe(layout, name) for name in names)) if row.differs]
    return {"Training": _rows(*trained)[1:], "Evaluation": _rows(*measured), "Recipe, where it differs": chosen}


def _read_recipe(layout: Layout, name: str) -> dict[str, str]:
    try:
        recipe = RunRecord.model_validate(read_object(layout.run(name) / RUN)).recipe
    except (FileNotFoundError, ValueError):
        return {}
    return {field: str(value) for field, value in recipe.items()}


def _read_figures(layout: Layout, name: str) -> dict[str, str]:
    """Write the headline numbers of base and adapter, and the verdicts; none where the run was not evaluated."""
    try:
        results = read_results(layout.reports(name))
    except (FileNotFoundError, ValueError):
        return {}
    found = {"Base model": results.model}
    for name, _, title, write in HEADLINES:
        base, adapter = (results.headline.get(f"{name}_{side}") for side in SIDES)
        if base is not None and adapter is not None:
            found[title] = f"{write(base)} -> {write(adapter)}"
    return found | {
        f"Threshold: {verdict.title}": f"{MARKS[verdict.passed]} {verdict.found} ({verdict.label})"
        for verdict in results.verdicts
    }


def _rows(left: dict[str, str], right: dict[str, str]) -> list[Row]:
    return [Row(title, left.get(title, ""), right.get(title, "")) for title in dict.fromkeys([*left, *right])]
