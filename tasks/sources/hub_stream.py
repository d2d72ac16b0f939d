"""The rows of one split of a dataset, streamed by `datasets` from any row on."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import tenacity

from storage.errors import ArchiveBusy, DistrustError
from tasks.sources.catalogue import SourceSpec
from tasks.sources.hub_errors import hub_error
from tasks.sources.hub_positions import Position, Positions, digest_row
from tasks.sources.hub_table import MAX_LINE_BYTES, Table, absent_columns, open_table
from tasks.sources.json_lines import BadLine, parse_line
from tasks.sources.rows import columns_of
from tasks.sources.source import Reject

LONGEST_WAIT_SECONDS = 30.0
"""A longer pause is not slept through here: it is the caller's, who lets other archives go on meanwhile."""
CHECKED_ROWS = 100
"""A column that none of so many first rows has is taken for absent."""

HubRow = dict[str, Any] | Reject

_log = logging.getLogger(__name__)
_END = object()


class HubStream:
    """Rows of a dataset at one commit; positions to go on from are kept in `folder`."""

    def __init__(
        self,
        spec: SourceSpec,
        token: str | None,
        folder: Path | None,
        sleep: Callable[[float], None] | None = None,
        attempts: int = 5,
    ) -> None:
        self._spec = spec
        self._token = token
        self._folder = folder
        self._sleep = sleep or self._pause
        self._interrupted = threading.Event()
        self._attempts = attempts
        self._tables: dict[str, tuple[Table, Positions]] = {}

    def read_from(self, revision: str, start: int) -> Iterator[HubRow]:
        """Yield the rows from `start` on, in order, each once, through failures that pass.

        Raises:
            ArchiveBusy: The Hub failed `attempts` times without a row in between, or asked for a long pause.
            SourceUnavailable: The dataset cannot be read, or lacks a column.
        """
        number = start
        self._interrupted.clear()
        rows = self._open(revision, start)
        row: Any

        def reopen() -> Any:
            nonlocal rows
            rows = self._open(revision, number)
            return next(rows, _END)

        try:
            while True:
                try:
                    row = next(rows, _END)
                except ArchiveBusy as error:
                    row = self._retrying(_after(error, reopen))
                if row is _END:
                    return
                number += 1
                yield row
        finally:
            rows.close()

    def interrupt(self) -> None:
        """End the pause that the reading thread is in, if it is in one: the read then fails."""
        self._interrupted.set()

    def _pause(self, seconds: float) -> None:
        while seconds > 0:
            if self._interrupted.is_set():
                raise ArchiveBusy(f"source {self._spec.name!r}: stopped while it waited for the Hub")
            time.sleep(min(seconds, 1.0))
            seconds -= 1.0

    def _retrying(self, read: Callable[[], Any]) -> Any:
        backoff = tenacity.wait_exponential_jitter(initial=1, max=LONGEST_WAIT_SECONDS, jitter=1)

        def failure(state: tenacity.RetryCallState) -> BaseException | None:
            return state.outcome.exception() if state.outcome else None

        def asked(state: tenacity.RetryCallState) -> float:
            return getattr(failure(state), "retry_after_seconds", None) or 0.0

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(ArchiveBusy),
            stop=lambda state: state.attempt_number >= self._attempts or asked(state) > LONGEST_WAIT_SECONDS,
            wait=lambda state: asked(state) or backoff(state),
            sleep=self._sleep,
            before_sleep=lambda state: _log.warning("%s; going on where it broke", failure(state)),
            reraise=True,
        )
        return retrying(read)

    def _open(self, revision: str, start: int) -> Generator[HubRow, None, None]:
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


def _after(error: ArchiveBusy, read: Callable[[], Any]) -> Callable[[], Any]:
    """Return a call that fails with `error` the first time: the failure that already happened counts as a try."""
    failures = iter([error])

    def again() -> Any:
        for failure in failures:
            raise failure
        return read()

    return again


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
