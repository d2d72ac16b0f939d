"""Scores that come from elsewhere, laid over those of scoring v1: a document's own, or a custom signal's.

What was laid over is written into the component ``overrides``, so that no score looks measured that was given.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.schemas import COMPONENTS, SCORED_SCHEMA
from storage.vocabulary import TRIVIA, band_of
from tasks.signals.priors import AUTHORITY_MAXIMUM, BITS_MAXIMUM

Mode = Literal["replace", "join"]

MAXIMA = {"auth_weight": AUTHORITY_MAXIMUM, "prov_entropy": BITS_MAXIMUM}
"""The numbers that may be laid over, each from 0 to its maximum."""
FIELDS = (*MAXIMA, "trivium_category")
REFUSED = "refused "
"""How the last part of the note in ``overrides`` begins, where something was refused."""

Values = Mapping[str, Sequence[Any]]
"""By name of `FIELDS`, one value per document; none leaves the built-in score."""


def find_fault(field: str, value: Any) -> str | None:
    """Say what is wrong with a value for one of `FIELDS`; none if nothing is."""
    if field == "trivium_category":
        return None if value in TRIVIA else f"it must be one of {', '.join(TRIVIA)}"
    plain: Any = value.item() if isinstance(value, np.generic) else value
    is_number = isinstance(plain, Real) and not isinstance(plain, bool)
    if not is_number:
        return f"it must be a number from 0 to {MAXIMA[field]}"
    # Scores are stored as float32, whose nearest number to 0.99 is a little larger.
    return None if 0 <= plain <= float(np.float32(MAXIMA[field])) else f"it must lie from 0 to {MAXIMA[field]}"


def split_overrides(overrides: str) -> tuple[str, str]:
    """Take the component ``overrides`` apart: what was laid over, and what was refused and why; each may be empty."""
    laid_over, _, refused = f"; {overrides}".partition(f"; {REFUSED}")
    return laid_over.removeprefix("; "), refused


def lay_over(scored: pa.Table, values: Values, origin: str, mode: Mode = "replace") -> pa.Table:
    """Put valid values in the place of built-in scores, and find the bands anew.

    Args:
        scored: A table of `SCORED_SCHEMA`.
        values: Valid values per document.
        origin: Where they come from: the first word of the note in ``overrides``.
        mode: ``replace`` takes the value; ``join`` takes the mean of value and present score for the two numbers
            (a category has no mean: there the value is taken).
    """
    columns = {name: scored.column(name).to_pylist() for name in FIELDS}
    notes: list[list[str]] = [[] for _ in range(scored.num_rows)]
    for field, of_documents in values.items():
        for row, value in enumerate(of_documents):
            if value is not None:
                given = float(value) if field in MAXIMA else value
                joins = mode == "join" and field in MAXIMA
                columns[field][row] = (columns[field][row] + given) / 2 if joins else given
                notes[row].append(field)
    stored = np.asarray(columns["auth_weight"], dtype=np.float32)
    columns["auth_weight"] = stored.tolist()
    for name, column in {**columns, "band": [band_of(value) for value in columns["auth_weight"]]}.items():
        field = SCORED_SCHEMA.field(name)
        scored = scored.set_column(scored.schema.get_field_index(name), field, pa.array(column, field.type))
    verb = "joined with " if mode == "join" else ""
    return _note(scored, [f"{verb}{origin}: {', '.join(fields)}" if fields else "" for fields in notes])


def given_values(extras: pa.ChunkedArray) -> tuple[Values, list[str]]:
    """Find the scores that documents carry themselves, in the JSON objects of the raw column ``extra``.

    Returns:
        The valid values, and per document what was refused and why (empty: nothing).
    """
    values: dict[str, list[Any]] = {field: [None] * len(extras) for field in FIELDS}
    refused = [""] * len(extras)
    pattern = "|".join(f'"{field}"' for field in FIELDS)
    for row in pc.indices_nonzero(pc.match_substring_regex(extras, pattern)).to_pylist():
        carried = json.loads(extras[row].as_py())
        faults = []
        for field in FIELDS:
            if (value := carried.get(field)) is None:
                continue
            if fault := find_fault(field, value):
                faults.append(f"{field} {value!r}: {fault}")
            else:
                values[field][row] = value
        refused[row] = "; ".join(faults)
    return values, refused


def lay_given_over(scored: pa.Table, extras: pa.ChunkedArray) -> pa.Table:
    """Honour the valid scores that documents carry; what is refused is noted and scored as if it were absent."""
    values, refused = given_values(extras)
    if any(value is not None for column in values.values() for value in column):
        scored = lay_over(scored, values, "given with the document")
    return _note(scored, [f"{REFUSED}{text}" if text else "" for text in refused]) if any(refused) else scored


def _note(scored: pa.Table, notes: Sequence[str]) -> pa.Table:
    components = scored.column("components").combine_chunks()
    position = COMPONENTS.get_field_index("overrides")
    before = components.field(position).to_pylist()
    texts = [_noted(*pair) for pair in zip(before, notes, strict=True)]
    fields = [components.field(i) for i in range(COMPONENTS.num_fields)]
    fields[position] = pa.array(texts, pa.string())
    struct = pa.StructArray.from_arrays(fields, fields=list(COMPONENTS))
    return scored.set_column(scored.schema.get_field_index("components"), SCORED_SCHEMA.field("components"), struct)


def _noted(before: str, note: str) -> str:
    """Add to a note; what was refused stays behind what was laid over."""
    laid_over, refused = split_overrides(before)
    parts = filter(None, (laid_over, note, REFUSED + refused if refused else ""))
    return "; ".join(sorted(parts, key=lambda part: part.startswith(REFUSED)))
