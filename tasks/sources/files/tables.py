"""Rows of one file: JSON lines, JSON, CSV, Parquet or the sheets of a workbook."""

from __future__ import annotations

import codecs
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.sources.files.containers import BROKEN, ByteStream, broken, open_unpacked
from tasks.sources.files.csv_rows import csv_rows
from tasks.sources.files.encoding import MIXED, detect_encoding
from tasks.sources.files.parsers import Parsers
from tasks.sources.files.record import BadLine, Row, Unreadable, placed

MAX_ROW_GROUP_BYTES = 2 * 2**30
MOST_JSON_BYTES = 64 * 2**20
"""A JSON file that is not of lines is held in memory as a whole."""
SAMPLE_BYTES = 64 * 2**10
MOST_SAMPLE_BYTES = 16 * 2**20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def lines_of(stream: IO[bytes], cap: int) -> Iterator[tuple[int, bytes | None]]:
    """Yield the lines that are not blank, with their number from one on.

    None stands in place of a line longer than `cap` bytes, which is never held in memory.
    """
    number = 0
    while line := stream.readline(cap + 1):
        number += 1
        if len(line) > cap and not line.endswith(b"\n"):
            while (rest := stream.readline(cap)) and not rest.endswith(b"\n"):
                pass
            yield number, None
        elif line.strip():
            yield number, line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line


def parse_line(line: bytes | None, number: int, cap: int) -> dict[str, object] | BadLine:
    """Read one line; single bytes that are not UTF-8 are read as Windows-1252."""
    if line is None:
        return BadLine("line-too-long", f"line {number} exceeds {cap} bytes")
    try:
        value = json.loads(line.decode(errors=MIXED))
    except (ValueError, RecursionError) as error:
        return BadLine("bad-json", f"line {number}: {error}")
    return value if isinstance(value, dict) else BadLine("bad-json", f"line {number} is not a JSON object")


def read_rows(path: Path, kind: str, cap: int, parsers: Parsers, ending: str = "") -> Iterator[Row]:
    """Yield the rows of a file of a kind, as `kind_of` says, in order; a bad line or row in its place.

    The file may be packed; `cap` is its longest line in bytes, and `ending` that of its name.
    """
    try:
        match kind:
            case "parquet":
                yield from _parquet_rows(path)
            case "sheet":
                yield from _sheet_rows(parsers.sheets(path))
            case "json":
                yield from _json_file(path)
            case "csv":
                with _in_utf8(path) as (stream, beginning):
                    yield from csv_rows(stream, beginning, cap, ending)
            case _:
                with _in_utf8(path) as (stream, _):
                    for number, line in lines_of(stream, cap):
                        row = parse_line(line, number, cap)
                        yield row if isinstance(row, BadLine) else placed(row, f"line {number}")
    except (*BROKEN, UnicodeDecodeError, pa.ArrowException) as error:
        raise broken(path.name, error) from error


class _Recoded(ByteStream):
    """A stream in another encoding, read as UTF-8."""

    def __init__(self, inner: IO[bytes], encoding: str) -> None:
        self._inner, self._left = inner, b""
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")

    def take(self, most: int) -> bytes:
        while not self._left and (data := self._inner.read(SAMPLE_BYTES)):
            self._left = self._decoder.decode(data).encode("utf-8", "replace")
        if not self._left:
            self._left = self._decoder.decode(b"", final=True).encode("utf-8", "replace")
        taken, self._left = self._left[:most], self._left[most:]
        return taken

    def close(self) -> None:
        self._inner.close()
        super().close()


@contextmanager
def _in_utf8(path: Path) -> Iterator[tuple[IO[bytes], str]]:
    """Open a file as UTF-8, whatever its encoding is; also return its beginning."""
    head = _sample(path)
    encoding = detect_encoding(head, whole=False) or "utf-8"
    stream = open_unpacked(path)
    if encoding not in ("utf-8", "utf-8-sig"):
        stream = io.BufferedReader(_Recoded(stream, encoding), SAMPLE_BYTES)
    with stream:
        yield stream, head[:SAMPLE_BYTES].decode(encoding, "replace").lstrip("\ufeff")


def _sample(path: Path) -> bytes:
    """Return the beginning of a file, as far as a letter that tells its encoding; it may come late, or be broken."""
    head = bytearray()
    with suppress(*BROKEN), open_unpacked(path) as stream:
        while head.isascii() and len(head) < MOST_SAMPLE_BYTES and (more := stream.read(SAMPLE_BYTES)):
            head += more
    return bytes(head)


def _json_file(path: Path) -> Iterator[Row]:
    """Yield the objects of a JSON file: those of its array, of the one array in its object, or the object itself."""
    with open_unpacked(path) as stream:
        data = stream.read(MOST_JSON_BYTES + 1)
    if len(data) > MOST_JSON_BYTES:
        raise Unreadable("file-too-large", f"more than {MOST_JSON_BYTES:,} bytes of JSON; write it as JSON lines")
    encoding = detect_encoding(data) or "utf-8"
    try:
        value = json.loads(data.decode(encoding, MIXED if encoding == "utf-8" else "strict"))
    except (ValueError, RecursionError) as error:
        raise Unreadable("bad-json", f"it is not JSON: {error}") from error
    if isinstance(value, dict):
        lists = [part for part in value.values() if isinstance(part, list) and part and isinstance(part[0], dict)]
        value = (
            lists[0]
            if len(lists) == 1 and not any(isinstance(v, str) and len(v) > 500 for v in value.values())
            else [value]
        )
    if not isinstance(value, list):
        raise Unreadable("bad-json", "it holds neither an object nor a list of objects")
    for number, entry in enumerate(value, 1):
        row = {"text": entry} if isinstance(entry, str) else entry
        place = f"entry {number}"
        yield placed(row, place) if isinstance(row, dict) else BadLine("bad-json", f"{place} is not a JSON object")


def _sheet_rows(sheets: list[tuple[str, list[list[Any]]]]) -> Iterator[Row]:
    """Yield the rows below the header of each sheet: the first row that has a cell."""
    for name, rows in sheets:
        header: list[str] | None = None
        for number, cells in enumerate(rows, 1):
            if all(cell in (None, "") for cell in cells):
                continue
            if header is None:
                header = [str(cell).strip() for cell in cells]
                continue
            values = {key: cell for key, cell in zip(header, cells, strict=False) if key and cell not in (None, "")}
            place = f"row {number}" if len(sheets) == 1 else f"sheet {name!r}, row {number}"
            yield placed(values, place, [key for key in header if key])


def _parquet_rows(path: Path) -> Iterator[Row]:
    number = 0
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).total_byte_size
            if size > MAX_ROW_GROUP_BYTES:
                raise OSError(
                    f"row group {group} holds {size:,} bytes, at most {MAX_ROW_GROUP_BYTES:,} are read at once"
                )
            for batch in file.iter_batches(batch_size=256, row_groups=[group]):
                for values in _rows_of(batch):
                    number += 1
                    yield placed(values, f"row {number}", list(values))


def _rows_of(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    try:
        return cast("list[dict[str, Any]]", batch.to_pylist())
    except UnicodeDecodeError:
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        return [{name: _value(column[row]) for name, column in columns.items()} for row in range(batch.num_rows)]


def _value(scalar: Any) -> Any:
    """Return what a Parquet file holds at one place; single bytes that are not UTF-8 are read as Windows-1252."""
    match scalar:
        case pa.DictionaryScalar():
            return _value(scalar.value)
        case pa.StringScalar() if scalar.is_valid:
            return scalar.as_buffer().to_pybytes().decode(errors=MIXED)
        case pa.StructScalar() if scalar.is_valid:
            return {name: _value(value) for name, value in scalar.items()}
        case pa.ListScalar() if scalar.is_valid:
            return [_value(value) for value in scalar.values]
        case _:
            return scalar.as_py()
