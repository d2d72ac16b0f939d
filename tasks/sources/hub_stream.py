"""The rows of one split of a dataset, streamed by `datasets` from any row on, also after a restart."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from storage.atomic import remove_temporaries, write_json
from storage.errors import DistrustError, StoreError
from tasks.sources.catalogue import SourceSpec
from tasks.sources.files.record import BadLine
from tasks.sources.files.tables import parse_line
from tasks.sources.hub_table import MAX_LINE_BYTES, Table, absent_columns, dataset_error, open_table
from tasks.sources.rows import columns_of
from tasks.sources.source import Reject

RECENT = 32
"""How many of the last positions are kept: a shard under way starts some ranges before the last row that was read."""
SPARSE_ROWS = 100_000
"""Of older positions, one per this many rows is kept, for shards that are fetched again later."""
CHECKED_ROWS = 100
"""A column that none of this many first rows has counts as absent."""

HubRow = dict[str, Any] | Reject

_log = logging.getLogger(__name__)


class HubStream:
    """Rows of a dataset at one commit; positions to go on from are kept in `folder`."""

    def __init__(self, spec: SourceSpec, token: str | None, folder: Path) -> None:
        self._spec, self._token, self._folder = spec, token, folder
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
            raise dataset_error(error, self._spec) from error

    def _rows(self, revision: str, start: int) -> Iterator[HubRow]:
        if revision not in self._tables:
            table = open_table(self._spec, self._token, revision)
            identity = {**table.identity, "form": table.form, "columns": list(table.columns)}
            self._tables[revision] = table, Positions(self._folder, identity)
        table, positions = self._tables[revision]
        stream, rows, number = self._nearest(table, positions, start)  # `number` rows come before it
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
                _log.warning("the position at row %d cannot be used (%r)", position.row, error)
                positions.forget(position.row)
                continue
            if found is not None and digest_row(found) == position.last_row:
                _log.info("%s: going on from row %d", self._spec.name, position.row)
                return stream, rows, position.row
            _log.warning(
                "%s: the row before row %d is not the one that was read; position not used",
                self._spec.name,
                position.row,
            )
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


@dataclass(frozen=True)
class Position:
    """A place in a stream.

    Attributes:
        row: How many rows come before it.
        state: What the library needs to go on from the row before it.
        last_row: Digest of that row: it is read again, and must be the same one.
    """

    row: int
    state: dict[str, Any]
    last_row: str


class Positions:
    """The saved positions of one stream: losing them costs time, never rows.

    Args:
        folder: Where they are stored.
        identity: All that decides which rows the stream has, in which order; no position of another is used.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self._folder = folder
        self._identity: dict[str, Any] = json.loads(json.dumps(identity))
        remove_temporaries(folder)

    def save(self, position: Position) -> None:
        """Keep a position; older ones thin out. A full disk only costs time."""
        try:
            write_json(self._file(position.row), {"identity": self._identity, **asdict(position)})
        except (OSError, StoreError) as error:
            _log.warning("position %d is not saved (%s)", position.row, error)
        older = self._rows()[:-RECENT]
        milestones: dict[int, int] = {}
        for row in older:
            milestones.setdefault(row // SPARSE_ROWS, row)
        for row in set(older) - set(milestones.values()):
            self.forget(row)

    def before(self, row: int) -> Iterator[Position]:
        """Yield the positions from which `row` can be reached, the nearest first."""
        for kept in reversed(self._rows()):
            if kept <= row and (position := self._read(kept)):
                yield position

    def forget(self, row: int) -> None:
        """Drop a position that proved wrong."""
        self._file(row).unlink(missing_ok=True)

    def _file(self, row: int) -> Path:
        return self._folder / f"position-{row:012d}.json"

    def _rows(self) -> list[int]:
        return sorted(int(file.stem[-12:]) for file in self._folder.glob(f"position-{'[0-9]' * 12}.json"))

    def _read(self, row: int) -> Position | None:
        try:
            content = json.loads(self._file(row).read_text("utf-8"))
            position = Position(content["row"], content["state"], content["last_row"])
            if content["identity"] == self._identity and position.row == row and isinstance(position.state, dict):
                return position
        except (OSError, ValueError, TypeError, KeyError):
            pass
        _log.info("position %d is broken or of another revision, version or selection: not used", row)
        self.forget(row)
        return None


def digest_row(row: Any) -> str:
    """Return a digest of a row's content."""
    content = json.dumps(row, sort_keys=True, default=str)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
