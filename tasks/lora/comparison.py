"""Several recipes that differ in one or two choices, and what came of each."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, computed_field

from storage import markdown
from storage.errors import ParameterError
from storage.training_result import TrainingResult
from tasks.lora.recipe import Recipe

MOST_VARIANTS = 64
LOSSES = {"valid_ce": "validation ce", "valid_ce_low": "primary ce", "valid_ce_high": "coordinated ce"}
"""Losses of a row with their headings; nats per token, before -> after."""


def variants(recipe: Recipe, choices: Mapping[str, Sequence[Any]]) -> dict[str, Recipe]:
    """Return a recipe for every combination of choices, by a suffix that names what differs; all faults at once."""
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


class ComparedRun(BaseModel):
    """One run of a comparison: losses before and after, or why it failed."""

    model_config = ConfigDict(frozen=True)

    run: str
    steps: int | None = None
    seconds: float | None = None
    effective_sample_share: float | None = None
    valid_ce_before: float | None = None
    valid_ce_after: float | None = None
    valid_ce_low_before: float | None = None
    valid_ce_low_after: float | None = None
    valid_ce_high_before: float | None = None
    valid_ce_high_after: float | None = None
    gap: float | None = None
    """How much the loss on coordinated sources rose against that on primary ones."""
    problem: str | None = None

    @classmethod
    def of(cls, run: str, result: TrainingResult) -> ComparedRun:
        """Return the row of a finished run."""
        shared = {name: getattr(result, name) for name in cls.model_fields if hasattr(result, name)}
        before = _difference(result.valid_ce_high_before, result.valid_ce_low_before)
        after = _difference(result.valid_ce_high_after, result.valid_ce_low_after)
        return cls(run=run, **shared, gap=_difference(after, before))

    def cells(self) -> dict[str, str]:
        """Return what a person reads of the run, by heading."""
        shown = {"run": self.run, "steps": "" if self.steps is None else str(self.steps)}
        for name, heading in LOSSES.items():
            before, after = getattr(self, f"{name}_before"), getattr(self, f"{name}_after")
            shown[heading] = "" if before is None or after is None else f"{before:.3f} -> {after:.3f}"
        effective = self.effective_sample_share
        shown["gap grew by"] = "" if self.gap is None else f"{self.gap:+.3f}"
        shown["effective samples"] = "" if effective is None else f"{effective:.0%}"
        shown["seconds"] = "" if self.seconds is None else f"{self.seconds:g}"
        # What a killed trainer wrote last has several lines, and a cell has one.
        return shown | ({"problem": " ".join(self.problem.split())} if self.problem else {})


def _difference(left: float | None, right: float | None) -> float | None:
    return None if left is None or right is None else left - right


class Comparison(BaseModel):
    """Runs side by side."""

    model_config = ConfigDict(frozen=True)

    folder: Path
    rows: list[ComparedRun]
    pictures: list[Path] = []

    @computed_field  # type: ignore[prop-decorator]
    @property
    def table(self) -> list[dict[str, str]]:
        """The cells of each run, by heading; a run that failed shows its problem."""
        return [row.cells() for row in self.rows]

    def _lines(self) -> list[list[str]]:
        headings = list(dict.fromkeys(heading for row in self.table for heading in row))
        return [headings, *([row.get(heading, "") for heading in headings] for row in self.table)]

    def markdown(self) -> str:
        """Write the table in Markdown."""
        headings, *rows = self._lines()
        return markdown.table(headings, rows)

    def summary(self) -> list[str]:
        """The runs side by side, and where the pictures are."""
        lines = self._lines()
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        aligned = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
        return [*aligned, *(f"picture {path}" for path in self.pictures)]
