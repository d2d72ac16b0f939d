"""Documents and rejects out of the rows of files."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from storage.vocabulary import SOURCE_TYPES
from tasks.sources.catalogue import Columns, SourceSpec
from tasks.sources.files.columns import find_column, guess_columns
from tasks.sources.files.encoding import REPLACEMENT
from tasks.sources.files.reading import FileReader
from tasks.sources.files.record import WHOLE_FILE, BadLine, FileRow, Row
from tasks.sources.rows import MOST_COLUMNS, map_row
from tasks.sources.source import Document, Reject

SCORE_COLUMNS = ("auth_weight", "prov_entropy", "trivium_category")
"""Scores that the user's rows may already have; they are kept beside the document."""
MOST_LOST = 0.05
DOCUMENT_COLUMNS = Columns(
    text="text",
    title="title",
    author="author",
    year="year",
    date="date",
    language="language",
    licence="licence",
    extra=("encoding", "gutenberg", "file_made"),
)


class RowMapper:
    """Makes the documents of one source; no year later than `current_year` is believed."""

    def __init__(self, reader: FileReader, current_year: int) -> None:
        self._reader, self._current_year = reader, current_year
        self._columns: dict[tuple[str, ...], SourceSpec] = {}

    def outcome(self, row: Row, file: str, number: int) -> Document | Reject:
        """Make the document or reject of a row, the `number`th of the file that was opened for it."""
        key = row.key or str(number)
        origin = row.file or file
        id = f"{self._reader.spec.name}:{origin}" if key == WHOLE_FILE else f"{self._reader.spec.name}:{origin}:{key}"
        if isinstance(row, BadLine):
            return Reject(id, origin, row.reason, row.detail)
        outcome = map_row(row, number, self.mapping(row), self._current_year, origin=origin)
        if outcome.id == f"{self._reader.spec.name}:row-{number}":
            # Rows of two files share their numbers.
            outcome = dataclasses.replace(outcome, id=id)
        if isinstance(outcome, Document):
            scores = {name: _number(row[name]) for name in SCORE_COLUMNS if row.get(name) is not None}
            outcome = dataclasses.replace(outcome, extra={**outcome.extra, **scores}, **self._own_type(row))
            return self._readable(outcome)
        return outcome

    def _readable(self, document: Document) -> Document | Reject:
        """Note the letters of a document that nobody could decode; with many of them it is a reject."""
        if not (lost := document.text.count(REPLACEMENT)):
            return document
        if lost > MOST_LOST * len(document.text):
            detail = f"{lost:,} of its {len(document.text):,} characters could not be decoded"
            return Reject(document.id, document.url, "garbled", detail)
        return dataclasses.replace(document, extra={**document.extra, "replacement_characters": lost})

    def _own_type(self, row: FileRow) -> dict[str, Any]:
        """Return the kind of document that a row names, where nobody described the columns."""
        if self._reader.is_described:
            return {}
        given = str(row.get(find_column("source_type", row)) or "").strip().lower()
        return {"source_type": given} if given in SOURCE_TYPES else {}

    def mapping(self, row: FileRow) -> SourceSpec:
        """Return the catalogue entry with the columns by which a row is read."""
        if row.is_document:
            names: tuple[str, ...] = (WHOLE_FILE,)
        elif self._reader.is_described:
            return self._reader.spec
        else:
            names = tuple(map(str, row.columns or row))
        if names not in self._columns:
            if len(self._columns) > MOST_COLUMNS:
                self._columns.clear()  # rows that each name other columns
            columns = DOCUMENT_COLUMNS if row.is_document else guess_columns(names, self._reader.spec.text_column)
            self._columns[names] = self._reader.spec.model_copy(update={"columns": columns})
        return self._columns[names]


def _number(value: Any) -> Any:
    """Return the number that a text spells, since CSV knows no numbers; anything else as it is."""
    try:
        number = float(value) if isinstance(value, str) else math.nan
    except ValueError:
        return value
    return number if math.isfinite(number) else value
