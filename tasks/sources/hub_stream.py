"""The rows of one split of a dataset, streamed by `datasets` from any row on."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

from storage.errors import DistrustError
from tasks.sources.catalogue import SourceSpec
from tasks.sources.hub_errors import hub_error
from tasks.sources.hub_positions import Position, Positions, digest_row
from tasks.sources.hub_table import MAX_LINE_BYTES, Table, absent_columns, open_table
from tasks.sources.json_lines import BadLine, parse_line
from tasks.sources.rows import columns_of
from tasks.sources.source import Reject

CHECKED_ROWS = 100
"""A column that none of so many first rows has is taken for absent."""

HubRow = dict[str, Any] | Reject

_log = logging.getLogger(__name__)


class HubStream:
    """Rows of a dataset at one commit; positions to go on from are kept in `folder`."""

    def __init__(self, spec: SourceSpec, token: str | None, folder: Path | None) -> None:
        self._spec = spec
        self._token = token
        self._folder = folder
        self._tables: dict[str, tuple[Table, Positions]] = {}

    def read_from(self, revision: str, start: int) -> Generator[HubRow, None, None]:
        """Yield the rows from `start` on, in order, each once; after a failure that may pass, read on from there.

        Raises:
            ArchiveBusy: The Hub failed, or asked for a pause.
            SourceUnavailable: The dataset cannot be read, or lacks a column.
        """
        # Every failure of the libraries, while opening or while reading, leaves as one of this project's errors.
        try:
            yield from self._rows(revision, start)
        except DistrustError:
            raise
        except Exception as error:
            raise hub_error(error, self._spec) from error

    def _rows(self, revision: str, start: int) -> Iterator[HubRow]:
        if revision not in self._tables:
            table = open_table(self._spec, self._token, revision)
            identity = {**table.identity, "form": table.form, "columns": list(table.columns)}
            self._tables[revision] = table, Positions(self._folder, identity)
        table, positions = self._tables[revision]
        stream, rows, number = self._nearest(table, positions, start)  # `number` rows lie behind
        step, first = self._spec.rows_per_item, self._spec.first_row
        seen: set[str] = set()
        state: dict[str, Any] | None = None
        checked = table.form == "lines" and start == first  # a table names its columns itself
        for row in rows:
            number += 1
            if state is not None:
                positions.save(Position(number, state, digest_row(row)))
                state = None
            if number > start:
                if checked and isinstance(row, dict):
                    seen.update(row)
                    if (checked := number < first + CHECKED_ROWS) is False:
                        self._require_text(seen)
                yield self._numbered(row, number - 1)
            if (number + 1 - first) % step == 0:
                state = stream.state_dict()  # of before the last row of a range; that row is kept as its digest
        if checked and seen:
            self._require_text(seen)

    def _nearest(self, table: Table, positions: Positions, start: int) -> tuple[Any, Iterator[HubRow], int]:
        """Return a pipeline, its rows, and the number of the first of them, which is at most `start`."""
        for position in positions.before(start):
            stream = table.build()
            try:
                stream.load_state_dict(position.state)
                rows = _rows_of(stream, table)
                found = next(rows, None)
            except (KeyError, IndexError, TypeError, AssertionError) as error:
                _log.warning("the position at row %d cannot be taken up (%r)", position.row, error)
                positions.forget(position.row)
                continue
            if found is not None and digest_row(found) == position.last_row:
                _log.info("%s: going on from row %d", self._spec.name, position.row)
                return stream, rows, position.row
            _log.warning("%s: another row lies before row %d than was read; left out", self._spec.name, position.row)
            positions.forget(position.row)
        stream = table.build()
        return stream, _rows_of(stream, table), 0

    def _numbered(self, row: HubRow, number: int) -> HubRow:
        if not isinstance(row, Reject):
            return row
        return Reject(f"{self._spec.name}:row-{number}", None, row.reason, f"row {number}: {row.detail}")

    def _require_text(self, seen: set[str]) -> None:
        text = self._spec.columns.text
        needed = columns_of(type(self._spec.columns)(text=text))
        if not needed & seen:
            raise absent_columns(self._spec, needed - seen, seen)


def _rows_of(stream: Any, table: Table) -> Iterator[HubRow]:
    if table.form == "table":
        yield from stream
        return
    wanted = set(table.columns)
    for row in stream:
        parsed = parse_line(row["line"], row["number"], MAX_LINE_BYTES)
        if isinstance(parsed, BadLine):
            yield Reject("", None, parsed.reason, parsed.detail)
        else:
            yield {name: value for name, value in parsed.items() if {name, name.partition(".")[0]} & wanted}
