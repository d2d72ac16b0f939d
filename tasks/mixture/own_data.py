"""Training on one's own data: JSON lines of the guide's shape, checked row by row."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from storage.atomic import atomic_folder, write_json
from storage.errors import MixtureError, ParameterError, StoreError
from storage.manifest import Manifest, write_manifest
from storage.schemas import SAMPLE_SCHEMA, SOURCE_TYPES, TRIVIA
from tasks.mixture.distribution import measure_distribution
from tasks.mixture.hashing import keyed_hash
from tasks.mixture.write import KIND, METADATA, write_side

TEXT_START = "User: "
TEXT_TURN = "\n\nAssistant: "
OWN_SOURCE = "own_data"
WEIGHT_BOUNDS = (0.0, 0.99)
ENTROPY_BOUNDS = (0.0, 10.0)
SHOWN_ERRORS = 20

_OPTIONAL_NAMES = ("id", "doc_id", "group_id", "source")


def read_samples(path: Path) -> pa.Table:
    r"""Read a JSON-lines file as a table of `SAMPLE_SCHEMA`.

    Required in each row: ``text`` (``User: <prompt>\n\nAssistant: <response>``), ``auth_weight`` (0 to 0.99),
    ``prov_entropy`` (0 to 10 bits) and ``trivium_category``. Optional: ``id``, ``doc_id``, ``group_id``,
    ``source``, ``source_type`` and ``metadata`` (an object, or a string holding one). Blank lines are skipped.

    Raises:
        StoreError: The file cannot be read.
        ParameterError: Rows break the shape; the message names file and line, the value and the bound of the
            first `SHOWN_ERRORS` of them.
    """
    rows: list[dict[str, Any]] = []
    errors: list[str] = []
    seen: dict[str, int] = {}
    for number, line in _lines(path):
        where = f"{path}:{number}"
        found: list[str] = []
        row = _parse_row(line, f"{path.stem}:{number}", found)
        if row is not None:
            first = seen.setdefault(row["id"], number)
            if first != number:
                found.append(f"id {row['id']!r} is already that of line {first}; ids must differ")
            rows.append(row)
        errors += [f"{where}: {error}" for error in found]
    if errors:
        more = f"\n… and {len(errors) - SHOWN_ERRORS} more" if len(errors) > SHOWN_ERRORS else ""
        raise ParameterError("\n".join(errors[:SHOWN_ERRORS]) + more)
    if not rows:
        raise ParameterError(f"{path} holds no samples; write one JSON object a line")
    return pa.Table.from_pylist(rows, schema=SAMPLE_SCHEMA)


def check_sides(train: pa.Table, valid: pa.Table) -> None:
    """Check that no id, no group and no text is on both sides.

    Raises:
        MixtureError: Something straddles; validation would then measure memory.
    """
    for column in ("id", "group_id", "text"):
        shared = set(train.column(column).to_pylist()) & set(valid.column(column).to_pylist())
        if shared:
            example = min(shared)[:80]
            raise MixtureError(
                f"{len(shared)} values of {column} are in training and in validation, for example {example!r}; "
                "leave each on one side only"
            )


def build_own_mixture(train: Path, valid: Path, destination: Path, inputs: dict[str, str]) -> Manifest:
    """Make a mixture that the trainer reads from two JSON-lines files, samples in the order of their lines.

    Nothing is left out or rebalanced; the distribution of each side is measured and kept in ``metadata.json``.

    Raises:
        ParameterError: Rows break the shape.
        MixtureError: A group, an id or a text is on both sides.
        StoreError: A file cannot be read.
    """
    tables = {"train": read_samples(train), "valid": read_samples(valid)}
    check_sides(tables["train"], tables["valid"])
    distributions = {
        side: measure_distribution(
            table.column("auth_weight").to_numpy(),
            table.column("prov_entropy").to_numpy(),
            table.column("trivium_category").to_pylist(),
        )
        for side, table in tables.items()
    }
    with atomic_folder(destination) as folder:
        records = []
        for side, table in tables.items():
            ranked = table.append_column("rank", pa.array(range(table.num_rows), pa.int64()))
            records += write_side(folder, side, [ranked], 0, table.num_rows)
        manifest = Manifest(
            kind=KIND,
            name=destination.name,
            inputs=inputs,
            parameters={"own_data": True},
            shards=records,
            counts={side: table.num_rows for side, table in tables.items()},
            notes={"verdict": {side: distribution.verdict for side, distribution in distributions.items()}},
        )
        described = {side: distribution.model_dump(mode="json") for side, distribution in distributions.items()}
        write_json(folder / METADATA, {"name": destination.name, "distribution": described})
        write_manifest(folder, manifest)
    return manifest


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{path} cannot be read as UTF-8 text ({error}); name a JSON-lines file") from error


def _parse_row(line: str, default_id: str, errors: list[str]) -> dict[str, Any] | None:
    """Check one line; append what is wrong to `errors` and return the row only if nothing is."""
    try:
        content = json.loads(line)
    except json.JSONDecodeError as error:
        errors.append(f"not JSON ({error.msg} at column {error.colno}); write one object a line")
        return None
    if not isinstance(content, dict):
        errors.append(f"holds a {type(content).__name__}; write one object a line")
        return None
    row: dict[str, Any] = {}
    for name, check in _CHECKS.items():
        try:
            row[name] = check(content.get(name))
        except ValueError as error:
            errors.append(f"{name} {error}")
    if errors:
        return None
    # The text's hash keeps ids apart where both sides come from files of the same name.
    row["id"] = row["id"] or f"{default_id}:{keyed_hash(OWN_SOURCE, row['text']):016x}"
    row["doc_id"] = row["doc_id"] or row["id"]
    row["group_id"] = row["group_id"] or row["doc_id"]
    row["source"] = row["source"] or OWN_SOURCE
    return row


def _check_text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"is {_shown(value)}, must be a string")
    start, turn = value.startswith(TEXT_START), value.find(TEXT_TURN)
    if not start or turn < 0 or not value[turn + len(TEXT_TURN) :].strip():
        raise ValueError(f"is {_shown(value)}, must read 'User: <prompt>', a blank line, then 'Assistant: <response>'")
    return value


def _number_within(bounds: tuple[float, float], unit: str = "") -> Callable[[Any], float]:
    def check(value: Any) -> float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not bounds[0] <= value <= bounds[1]:
            raise ValueError(f"is {_shown(value)}, must be a number from {bounds[0]:g} to {bounds[1]:g}{unit}")
        return float(value)

    return check


def _one_of(allowed: tuple[str, ...], default: str | None = None) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value is None and default is not None:
            return default
        if value not in allowed:
            raise ValueError(f"is {_shown(value)}, must be one of {', '.join(allowed)}")
        return str(value)

    return check


def _check_name(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise ValueError(f"is {_shown(value)}, must be a non-empty string; or leave it out")
    return str(value)


def _check_metadata(value: Any) -> str:
    """Take an object as it is and a string if it holds one."""
    content = value
    if isinstance(value, str):
        try:
            content = json.loads(value)
        except json.JSONDecodeError:
            content = value
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise ValueError(f"is {_shown(value)}, must be an object; or leave it out")
    return json.dumps(content, ensure_ascii=False)


def _shown(value: Any) -> str:
    if value is None:
        return "missing"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


_CHECKS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(_OPTIONAL_NAMES, _check_name),
    "text": _check_text,
    "auth_weight": _number_within(WEIGHT_BOUNDS),
    "prov_entropy": _number_within(ENTROPY_BOUNDS, " bits"),
    "trivium_category": _one_of(tuple(TRIVIA)),
    "source_type": _one_of(tuple(SOURCE_TYPES), default="unknown"),
    "metadata": _check_metadata,
}
