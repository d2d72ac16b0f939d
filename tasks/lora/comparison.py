"""Several recipes that differ in one or two choices, and what came of each."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from storage.errors import ParameterError
from tasks.lora.recipe import Recipe

MOST_VARIANTS = 64
COLUMNS = {
    "run": "run",
    "steps": "steps",
    "valid_ce": "validation ce",
    "valid_ce_low": "primary ce",
    "valid_ce_high": "coordinated ce",
    "gap": "gap grew by",
    "effective_sample_share": "effective samples",
    "seconds": "seconds",
}
"""Fields of a row with the table's headings; losses in nats per token, before -> after."""


def variants(recipe: Recipe, choices: Mapping[str, Sequence[Any]]) -> dict[str, Recipe]:
    """Return a recipe for every combination of choices, by a suffix that names what differs.

    Args:
        recipe: What all have in common.
        choices: Values by field; fields without values keep the recipe's.

    Raises:
        ParameterError: A combination does not hold, there are none, or there are too many; all faults at once.
    """
    varied = {field: list(dict.fromkeys(values)) for field, values in choices.items() if values}
    if not varied:
        raise ParameterError(f"nothing is compared: give values for at least one of {', '.join(choices)}")
    combinations = [dict(zip(varied, values, strict=True)) for values in itertools.product(*varied.values())]
    if len(combinations) > MOST_VARIANTS:
        raise ParameterError(f"{len(combinations)} runs are more than {MOST_VARIANTS}: compare fewer values at once")
    found: dict[str, Recipe] = {}
    faults = []
    for chosen in combinations:
        try:
            found[suffix_of(chosen)] = Recipe.model_validate(recipe.model_dump() | chosen)
        except ValidationError as error:
            faults += [f"{fault['loc'][0]}={fault['input']!r}: {fault['msg']}" for fault in error.errors()]
    if faults:
        raise ParameterError("; ".join(dict.fromkeys(faults)))
    if len(found) < len(combinations):
        raise ParameterError("two of the values make the same run name; compare them one at a time")
    return found


def suffix_of(chosen: Mapping[str, Any]) -> str:
    """Name a combination, fit for a folder: ``alpha2.5-weighted``."""
    parts = []
    for field, value in chosen.items():
        word = f"{field}{value:g}" if isinstance(value, int | float) else str(value).rstrip("/").rsplit("/", 1)[-1]
        parts.append(re.sub(r"[^A-Za-z0-9._-]+", "_", word))
    return "-".join(parts)


def row_of(run: str, result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of a finished run: losses before and after, and how far the two voices moved apart."""
    row: dict[str, Any] = {"run": run, "steps": result["steps"], "seconds": result["seconds"]}
    row["effective_sample_share"] = result["effective_sample_share"]
    for name in ("valid_ce", "valid_ce_low", "valid_ce_high"):
        row[f"{name}_before"], row[f"{name}_after"] = result.get(f"{name}_before"), result.get(f"{name}_after")
    bands = [row[f"valid_ce_{band}_{when}"] for band in ("high", "low") for when in ("before", "after")]
    row["gap"] = None if None in bands else (bands[1] - bands[0]) - (bands[3] - bands[2])
    return row


def table_of(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Write rows for people; a run that failed shows its problem."""
    return [{heading: _cell(row, field) for field, heading in COLUMNS.items()} | _problem(row) for row in rows]


def _problem(row: Mapping[str, Any]) -> dict[str, str]:
    # What a killed trainer said last has several lines, and a cell has one.
    return {"problem": " ".join(str(row["problem"]).split())} if row.get("problem") else {}


def _cell(row: Mapping[str, Any], field: str) -> str:
    if f"{field}_after" in row:
        before, after = row[f"{field}_before"], row[f"{field}_after"]
        return "" if before is None or after is None else f"{before:.3f} -> {after:.3f}"
    value = row.get(field)
    if field == "gap" and value is not None:
        return f"{value:+.3f}"
    if field == "effective_sample_share" and value is not None:
        return f"{value:.0%}"
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def as_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write the table as Markdown."""
    table = table_of(rows)
    headings = list(dict.fromkeys(heading for row in table for heading in row))
    lines = [headings, ["---"] * len(headings), *([row.get(heading, "") for heading in headings] for row in table)]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines)
