"""Reads one file, whatever it is: a document, the rows of a table, or the files of an archive."""

from __future__ import annotations

import dataclasses
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import IO, Any

from tasks.sources.catalogue import SourceSpec
from tasks.sources.files.columns import MOST_BYTES, Descriptions, describe, guess_columns
from tasks.sources.files.containers import BROKEN, ExpandsTooFar, broken, members_of, open_unpacked, read_head
from tasks.sources.files.encoding import decode
from tasks.sources.files.kinds import ARCHIVES, ENDINGS, TABLES, ending_of, kind_of, unpacked_name
from tasks.sources.files.naming import fields_of_name, read_frame, read_front_matter
from tasks.sources.files.parsers import Parsers
from tasks.sources.files.record import WHOLE_FILE, BadLine, FileRow, FileText, Row, Unreadable
from tasks.sources.files.tables import read_rows
from tasks.sources.files.walk import is_hidden, shown
from tasks.sources.rows import MOST_COLUMNS

LARGEST_FILE_BYTES = 512 * 2**20
"""Of a PDF, e-book or office file, or of a file in an archive."""
MOST_DEPTH = 3
"""Archives in archives in archives."""
MOST_TABLES = 20
"""Tables of an archive that are tried as descriptions of its other files; a collection of tables has more."""
FIRST_SOFTWARE_YEAR = 1990
"""A file that says it was made before then speaks of its text."""

_NO_TITLE = re.compile(r"(?:microsoft word - .*|untitled.*|document\s?\d*|.*\.(?:docx?|odt|pdf|indd|rtf|txt))", re.I)
_DAY = re.compile(r"\d{4}-\d\d(?!\d)")
_STREAMED = ("text", "markdown", "csv", "json", "jsonl", "tar")
"""Kinds that are read out of a packed file without a copy of what it holds."""


class FileReader:
    """Reads the files of one source; no name of a file speaks of a later year than `current_year`."""

    def __init__(self, spec: SourceSpec, current_year: int) -> None:
        self.spec = spec
        self.parsers = Parsers(spec.max_text_chars)
        self.is_described = "columns" in spec.model_fields_set
        self._current_year = current_year
        self._descriptions: dict[str, Descriptions] = {}

    def kind(self, path: Path, name: str) -> tuple[str, bool]:
        """Tell what a file is when it is unpacked, and whether it is packed."""
        head, is_packed = read_head(path)
        return kind_of(head, unpacked_name(name), None if is_packed else path), is_packed

    def rows(self, path: Path, name: str, *, light: bool = False, depth: int = 0) -> Iterator[Row]:
        """Yield the rows of a table, the documents of an archive, or the one document of a file, in order.

        A file that cannot be read to its end yields a `BadLine` last.

        Args:
            path: Where it is.
            name: Its path in the folder; that of a file in an archive begins with the archive's.
            light: Only count: documents are not parsed, and come as empty rows.
            depth: How many archives it is in.
        """
        try:
            kind, is_packed = self.kind(path, name)
            if is_packed and kind not in _STREAMED:
                with tempfile.TemporaryDirectory() as folder:
                    copy = Path(folder) / "unpacked"
                    with open_unpacked(path) as stream:
                        _copy(stream, copy)
                    yield from self._rows(copy, name, kind, light, depth)
            else:
                yield from self._rows(path, name, kind, light, depth)
        except Unreadable as error:
            yield BadLine(error.reason, error.detail, key=WHOLE_FILE)
        except BROKEN as error:
            found = broken(PurePosixPath(name).name, error)
            yield BadLine(found.reason, found.detail, key=WHOLE_FILE)

    def _rows(self, path: Path, name: str, kind: str, light: bool, depth: int) -> Iterator[Row]:
        if kind in ARCHIVES:
            yield from self._archive(path, name, kind, light, depth)
        elif kind in TABLES:
            yield from self._table(path, name, kind)
        else:
            yield FileRow() if light else self._document(path, name, kind)

    def _table(self, path: Path, name: str, kind: str) -> Iterator[Row]:
        for row in read_rows(path, kind, self.spec.max_line_bytes, self.parsers, ending_of(name)):
            if isinstance(row, FileRow) and row.columns is not None and not self.is_described:
                text = guess_columns(row.columns, self.spec.text_column).text
                if text not in row.columns:
                    raise Unreadable("missing-text", no_text_column(row.columns, self.spec.text_column))
            yield row

    def _archive(self, path: Path, name: str, kind: str, light: bool, depth: int) -> Iterator[Row]:
        if depth >= MOST_DEPTH:
            raise Unreadable("too-deep", f"an archive in {MOST_DEPTH} others; unpack it yourself")
        described = self._descriptions_in(path, name, kind)
        with tempfile.TemporaryDirectory() as folder:
            for member, stream, fault in _members(path, kind):
                inner = f"{name}/{member}"
                if fault is None and member in described.missing:
                    fault = ("describes-files", described.account_of(member))
                if fault or stream is None:
                    yield BadLine(*(fault or ("broken-file", "it cannot be unpacked")), file=inner, key=WHOLE_FILE)
                    continue
                for row in self._member(stream, inner, Path(folder) / "member", kind, light, depth):
                    if isinstance(row, FileRow) and row.file == inner:
                        describe(row, described.of_file.get(member, {}))
                    yield row

    def _descriptions_in(self, path: Path, name: str, kind: str) -> Descriptions:
        """Find the tables of an archive that describe its other files; they may come behind those, so they come first.

        What is wrong with the archive is told when it is read.
        """
        if name in self._descriptions or self.is_described:
            return self._descriptions.get(name, Descriptions())
        found = self._descriptions[name] = Descriptions()
        names: list[str] = []
        with tempfile.TemporaryDirectory() as folder:
            tables: dict[str, Path] = {}
            with suppress(Unreadable):
                for member, stream, fault in _members(path, kind):
                    if fault or stream is None:
                        continue
                    names.append(member)
                    if ENDINGS.get(ending_of(member)) in TABLES and len(tables) < MOST_TABLES:
                        with suppress(*BROKEN):
                            data = stream.read(MOST_BYTES + 1)
                            if len(data) <= MOST_BYTES:
                                tables[member] = Path(folder) / str(len(tables))
                                tables[member].write_bytes(data)
            for table, copy in tables.items():
                found.add(table, self.table_rows(copy, table), [other for other in names if other not in tables])
        return found

    def _member(self, stream: IO[bytes], name: str, copy: Path, kind: str, light: bool, depth: int) -> Iterator[Row]:
        try:
            _copy(stream, copy)
        except ExpandsTooFar:
            raise
        except Unreadable as error:
            yield BadLine(error.reason, error.detail, name, WHOLE_FILE)
            return
        except BROKEN as error:
            if kind == "tar":  # what follows cannot be found
                raise
            yield BadLine("broken-file", f"it cannot be unpacked ({error})", name, WHOLE_FILE)
            return
        for number, row in enumerate(self.rows(copy, name, light=light, depth=depth + 1)):
            if isinstance(row, BadLine):
                yield dataclasses.replace(row, file=row.file or name, key=row.key or str(number))
            else:
                row.file, row.key = row.file or name, row.key or str(number)
                yield row

    def table_rows(self, path: Path, name: str) -> Iterator[Row]:
        """Yield the rows of a table, whether or not one of its columns holds texts; one that is broken just ends."""
        try:
            kind, is_packed = self.kind(path, name)
            if kind != "sheet" or not is_packed:
                yield from read_rows(path, kind, self.spec.max_line_bytes, self.parsers, ending_of(name))
        except Unreadable:
            return

    def document(self, path: Path, name: str, described: Mapping[str, Any]) -> Row:
        """Read a file that is one document; `described` is what a table beside it says about it."""
        row: Row = FileRow()
        for row in self.rows(path, name):
            if isinstance(row, FileRow):
                describe(row, described)
        return row

    def _document(self, path: Path, name: str, kind: str) -> FileRow:
        found = self._text(path, kind)
        said = fields_of_name(unpacked_name(name), self._current_year)
        found = read_frame(found)
        dates = [found.date, said.get("date", "")]
        if kind == "epub":  # its date is often that of the e-book
            dates.reverse()
        if found.made[:4].isdigit() and int(found.made[:4]) < FIRST_SOFTWARE_YEAR:
            dates.append(found.made)
        when = next(filter(None, dates), "")
        title = "" if _NO_TITLE.fullmatch(found.title.strip()) else found.title
        row = FileRow(
            text=found.text,
            title=title or said["title"],
            author=found.author or said.get("author", ""),
            year=when,
            date=when if _DAY.match(when) else "",
            language=found.language,
            **({"file_made": found.made} if found.made else {}),
            **found.extra,
        )
        row.is_document, row.key, row.place = True, WHOLE_FILE, "the file"
        return row

    def _text(self, path: Path, kind: str) -> FileText:
        cap = self.spec.max_line_bytes if kind in ("text", "markdown", "html", "xml") else LARGEST_FILE_BYTES
        size = path.stat().st_size
        if kind in ("text", "markdown"):
            with open_unpacked(path) as stream:
                data = stream.read(cap + 1)
            size = max(size, len(data))
        if size > cap:
            named = "max_line_bytes = " if cap == self.spec.max_line_bytes else ""
            raise Unreadable("file-too-large", f"{size} bytes, the cap is {named}{cap}")
        if kind not in ("text", "markdown"):
            found = self.parsers.text(kind, path)
        else:
            text, encoding = decode(data)
            found = read_front_matter(text) if kind == "markdown" else FileText(text)
            found.extra = {} if encoding == "utf-8" else {"encoding": encoding}
        if not found.text.strip():
            raise Unreadable("no-text", "it holds no text")
        return found


def no_text_column(columns: list[str], wanted: str = "") -> str:
    """Say that a table has no column of texts, and what to do."""
    named = f"no column {wanted!r}" if wanted else "no column that is known to hold texts"
    found = ", ".join(map(repr, columns[:MOST_COLUMNS])) or "none"
    return f"there is {named}; its columns: {found}. Name the right one with --text-column NAME"


def _members(path: Path, kind: str) -> Iterator[tuple[str, IO[bytes] | None, tuple[str, str] | None]]:
    """Yield the files of an archive that a person put there: name, content, and the reason not to read it."""
    seen: set[str] = set()
    for member in members_of(path, kind):
        parts = PurePosixPath(member.name.replace("\\", "/")).parts
        if "__MACOSX" in parts or parts[-1:] == (".DS_Store",):
            continue
        name, fault = "/".join(shown(part) for part in parts if part not in ("/", "..", ".")), member.fault
        if "\ufffd" in name or shown(member.name) != member.name:
            fault = ("bad-file-name", "its name is not UTF-8")
        elif parts and is_hidden(parts[-1]):
            fault = ("hidden-file", "a hidden file")
        elif name in seen:
            fault = ("duplicate-member", "the archive holds another file of this name")
        seen.add(name)
        yield name, member.stream, fault


def _copy(stream: IO[bytes], to: Path) -> None:
    with to.open("wb") as file:
        left = LARGEST_FILE_BYTES
        while data := stream.read(min(2**20, left + 1)):
            left -= len(data)
            if left < 0:
                raise Unreadable("file-too-large", f"more than {LARGEST_FILE_BYTES:,} bytes; unpack it yourself")
            file.write(data)
