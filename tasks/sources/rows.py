"""Rows of tables: read range by range, each made into one document or a reject with its reason."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, Generic, TypeVar

from tasks.sources.catalogue import Columns, Path_, SourceSpec
from tasks.sources.dates import YearSpan, date_of, years_of
from tasks.sources.source import Document, Reject

FIRST_LINE = "@first_line"
TITLE_CHARS = 120
MOST_COLUMNS = 20
"""Columns that a message names."""

_PART = re.compile(r"\{([^{}]+)\}")

Row = TypeVar("Row")


def map_row(
    row: Mapping[str, Any], number: int, spec: SourceSpec, current_year: int, origin: str = ""
) -> Document | Reject:
    """Read a row by the columns of its catalogue entry.

    Its `number` in the stream names a row without an id, and its `origin` is the URL of one without; no year later than
    `current_year` is believed.
    """
    columns = spec.columns
    row_id = f"{spec.name}:{_text(pick(row, columns.id)) or f'row-{number}'}"
    url = _text(pick(row, columns.url)) or origin or None
    text = pick(row, columns.text)
    if not isinstance(text, str) or not text.strip():
        return Reject(row_id, url, "missing-text", missing_text(row, columns, getattr(row, "place", f"row {number}")))
    span = _years(row, columns, current_year)
    year = span.end if span else None
    if reason := spec.outside_years(year):
        return Reject(row_id, url, reason, f"year {span}")
    return Document(
        id=row_id,
        source=spec.name,
        source_type=spec.source_type,
        text=text,
        url=url,
        title=first_line(text) if columns.title == FIRST_LINE else _text(pick(row, columns.title)),
        author=_text(pick(row, columns.author)),
        year=year,
        date=date_of(pick(row, columns.date)),
        language=_text(pick(row, columns.language)),
        licence=_text(pick(row, columns.licence)) or spec.licence,
        extra=_extra(row, columns) | (span.extra() if span else {}),
    )


def missing_text(row: Mapping[str, Any], columns: Columns, place: str) -> str:
    """Say what a row has in place of a text."""
    needed = columns_of(Columns(text=columns.text))
    if needed & set(row):
        return f"{place}: the text in {columns.text!r} is empty or not text"
    return f"{place}: there is no column {columns.text!r}, only {sorted(map(str, row))[:MOST_COLUMNS]}"


def pick(row: Mapping[str, Any], path: Path_) -> Any:
    """Return the first value that the paths lead to, if any."""
    for candidate in (path,) if isinstance(path, str) else path:
        value = _fill(row, candidate) if _PART.search(candidate) else _walk(row, candidate)
        if value is not None and value != "":
            return value
    return None


def columns_of(columns: Columns) -> set[str]:
    """Name the top-level columns that a mapping reads."""
    needed: set[str] = set(columns.extra)
    for name in type(columns).model_fields:
        value = getattr(columns, name)
        if name == "extra" or not value or value == FIRST_LINE:
            continue
        for candidate in (value,) if isinstance(value, str) else value:
            parts = _PART.findall(candidate) or [candidate]
            needed.update(part.partition(".")[0] for part in parts)
    return needed


def first_line(text: str) -> str | None:
    """Return the first line that is not empty, cut at a word when it is longer than 120 characters."""
    line = next((" ".join(line.split()) for line in text.splitlines() if line.strip()), "")
    if len(line) <= TITLE_CHARS:
        return line or None
    return line[: TITLE_CHARS + 1].rpartition(" ")[0] or line[:TITLE_CHARS]


def _years(row: Mapping[str, Any], columns: Columns, current_year: int) -> YearSpan | None:
    for path in (columns.year, columns.date):
        for candidate in (path,) if isinstance(path, str) else path:
            if candidate and (span := years_of(pick(row, candidate), current_year)) is not None:
                return span
    return None


def _extra(row: Mapping[str, Any], columns: Columns) -> dict[str, object]:
    extra = {name: value for name in columns.extra if (value := _walk(row, name)) is not None}
    if part_of := _text(pick(row, columns.part_of)):
        extra["part_of"] = part_of
    return extra


def _walk(row: Mapping[str, Any], path: str) -> Any:
    # A column whose very name holds a dot wins over a path.
    if path in row:
        return row[path]
    value: Any = row
    for step in path.split("."):
        if isinstance(value, Mapping):
            value = value.get(step)
        elif isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value


def _fill(row: Mapping[str, Any], template: str) -> str | None:
    values = {part: _text(_walk(row, part)) for part in _PART.findall(template)}
    if any(value is None for value in values.values()):
        return None
    return _PART.sub(lambda match: str(values[match[1]]), template)


def _text(value: Any) -> str | None:
    if isinstance(value, list):
        return "; ".join(filter(None, map(_text, value))) or None
    if value is None or isinstance(value, Mapping):
        return None
    return str(value).strip() or None


class RangeReader(Generic[Row]):
    """Reads ranges of named streams off the event loop, one at a time.

    The stream stays open between ranges, so consecutive ranges are read in one go; any other range opens the
    stream again at its start.

    Args:
        open_at: Opens a stream at a row; blocking.
    """

    def __init__(self, open_at: Callable[[str, int], Iterator[Row]]) -> None:
        self._open_at = open_at
        self._lock = asyncio.Lock()
        self._iterator: Iterator[Row] | None = None
        self._stream = ""
        self._position = 0
        self._ends: dict[str, int] = {}

    async def read(self, stream: str, start: int, count: int) -> list[Row]:
        """Read rows `start` .. `start + count`; fewer where the stream ends."""
        async with self._lock:
            work = asyncio.ensure_future(asyncio.to_thread(self._read, stream, start, count))
            try:
                return await asyncio.shield(work)
            except asyncio.CancelledError:
                # The thread cannot be stopped, and the iterator belongs to it until it is done.
                await asyncio.wait([work])
                if not work.cancelled():
                    work.exception()  # read, so that asyncio does not report it as lost
                raise

    async def close(self) -> None:
        """Close the open stream."""
        async with self._lock:
            await asyncio.to_thread(self._drop)

    def _read(self, stream: str, start: int, count: int) -> list[Row]:
        if start >= self._ends.get(stream, start + 1):
            return []
        try:
            if self._iterator is None or (self._stream, self._position) != (stream, start):
                self._drop()
                self._iterator = self._open_at(stream, start)
                self._stream, self._position = stream, start
            rows = list(islice(self._iterator, count))
        except BaseException:
            self._drop()
            raise
        self._position = start + len(rows)
        if len(rows) < count:
            self._ends[stream] = self._position
            self._drop()
        return rows

    def _drop(self) -> None:
        iterator, self._iterator = self._iterator, None
        close = getattr(iterator, "close", None)
        if close is not None:
            close()
