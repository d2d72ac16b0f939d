"""Rows of one file: JSON lines, CSV or Parquet."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import SourceUnavailable

PARQUET = ".parquet"
CSV_SUFFIXES = (".csv", ".csv.zst", ".csv.gz")
ROW_SUFFIXES = (".jsonl", ".jsonl.zst", ".jsonl.gz", *CSV_SUFFIXES, PARQUET)
TEXT_SUFFIXES = (".txt", ".md")

EXPANSION_FLOOR_BYTES = 64 * 2**20
LARGEST_EXPANSION = 200
"""A packed file may grow this many times, or to the floor; prose packs to a tenth, a bomb to a thousandth."""
MAX_ROW_GROUP_BYTES = 2 * 2**30
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class BadLine:
    """A line that is not a row: the countable reason, and the sentence for a person."""

    reason: str
    detail: str


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


def parse_line(line: bytes | None, number: int, cap: int) -> dict[str, Any] | BadLine:
    """Read one line; bytes that are not UTF-8 become U+FFFD, as everywhere in the corpus."""
    if line is None:
        return BadLine("line-too-long", f"line {number} exceeds {cap} bytes")
    try:
        value = json.loads(line.decode("utf-8", "replace"))
    except (ValueError, RecursionError) as error:
        return BadLine("bad-json", f"line {number}: {error}")
    return value if isinstance(value, dict) else BadLine("bad-json", f"line {number} is not a JSON object")


class FileRow(dict[str, Any]):
    """A row, and where in its file it is."""

    place = ""


Row = FileRow | BadLine


class BoundedReader(io.RawIOBase):
    """Reads what comes out of a packed file, and stops a file that expands too far.

    Args:
        inner: The unpacked bytes.
        limit: Most bytes, from the beginning or from the last `restart` on.
    """

    def __init__(self, inner: IO[bytes], limit: int) -> None:
        self._inner, self._limit, self._left = inner, limit, limit

    def restart(self) -> None:
        """Count from here on."""
        self._left = self._limit

    def readable(self) -> bool:
        """Tell that this is for reading."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read the next bytes.

        Raises:
            OSError: There are too many.
        """
        data = self._inner.read(len(buffer))
        self._left -= len(data)
        if self._left < 0:
            raise OSError(f"expands to more than {self._limit:,} bytes; unpack it yourself if that is right")
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Close the packed file."""
        self._inner.close()
        super().close()


def read_rows(path: Path, cap: int) -> Iterator[Row]:
    """Yield the rows of a file in order; a bad line or row in its place.

    Args:
        path: The file; its name says what it is.
        cap: The longest line, in bytes.

    Raises:
        SourceUnavailable: The file is broken, or expands too far.
    """
    try:
        if path.name.endswith(PARQUET):
            yield from _parquet_rows(path)
        else:
            with _open_binary(path) as stream:
                yield from (_csv_rows if path.name.endswith(CSV_SUFFIXES) else _json_rows)(stream, cap)
    except (OSError, EOFError, OverflowError, zlib.error, UnicodeDecodeError, pa.ArrowException) as error:
        raise SourceUnavailable(f"{path.name} is broken ({error})") from error


def _open_binary(path: Path) -> IO[bytes]:
    packed: Any
    if path.name.endswith(".zst"):
        # Unlike zstandard's reader, this one notices a file that was cut short.
        packed = pa.CompressedInputStream(pa.OSFile(str(path)), "zstd")
    elif path.name.endswith(".gz"):
        packed = gzip.GzipFile(path, "rb")
    else:
        return path.open("rb")
    limit = max(EXPANSION_FLOOR_BYTES, LARGEST_EXPANSION * path.stat().st_size)
    return io.BufferedReader(BoundedReader(packed, limit))


def _json_rows(stream: IO[bytes], cap: int) -> Iterator[Row]:
    for number, line in lines_of(stream, cap):
        row = parse_line(line, number, cap)
        yield row if isinstance(row, BadLine) else _placed(row, f"line {number}")


def _placed(values: Mapping[str, Any], place: str) -> FileRow:
    row = FileRow(values)
    row.place = place
    return row


def _csv_rows(stream: IO[bytes], cap: int) -> Iterator[Row]:
    """Yield the rows below a CSV file's header; a field may span lines, so a row's number is that of its last line."""
    too_long: list[int] = []
    csv.field_size_limit(max(cap, csv.field_size_limit()))
    reader = csv.reader(_decoded(stream, cap, too_long), strict=True)
    header: list[str] | None = None
    while True:
        problem: BadLine | None = None
        fields: list[str] | None = []
        try:
            fields = next(reader, None)
        except csv.Error as error:
            problem = BadLine("bad-csv", f"line {reader.line_num}: {error}")
        if too_long:
            # Whatever the reader made of the rest: a row that lacks one of its lines is rejected.
            ends = f"; its row ends in line {reader.line_num}" if reader.line_num > too_long[0] else ""
            problem = BadLine("line-too-long", f"line {too_long[0]} exceeds {cap} bytes{ends}")
            too_long.clear()
        if fields is None:
            return
        if problem and header is None:
            raise OSError(f"its header cannot be read: {problem.detail}")
        if problem:
            yield problem
        elif not fields:
            continue
        elif header is None:
            header = fields
        elif len(fields) != len(header):
            detail = f"line {reader.line_num} has {len(fields)} fields, the header names {len(header)}"
            yield BadLine("bad-csv", detail)
        else:
            # CSV knows no null: an empty field says nothing.
            values = {name: value for name, value in zip(header, fields, strict=True) if value}
            yield _placed(values, f"line {reader.line_num}")


def _decoded(stream: IO[bytes], cap: int, too_long: list[int]) -> Iterator[str]:
    number = 0
    while line := stream.readline(cap + 1):
        number += 1
        if len(line) > cap and not line.endswith(b"\n"):
            quotes = line.count(b'"')
            while not line.endswith(b"\n") and (line := stream.readline(cap)):
                quotes += line.count(b'"')
            too_long.append(number)
            # An odd quote is kept: it opens or closes a field that spans lines, which the next lines depend on.
            yield '"' * (quotes % 2)
        else:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8", "replace").replace("\0", "")


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
                    yield _placed(values, f"row {number}")


def _rows_of(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    try:
        return cast("list[dict[str, Any]]", batch.to_pylist())
    except UnicodeDecodeError:
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        return [{name: _value(column[row]) for name, column in columns.items()} for row in range(batch.num_rows)]


def _value(scalar: Any) -> Any:
    """Return what a Parquet file holds at one place; bytes that are not UTF-8 become U+FFFD."""
    match scalar:
        case pa.DictionaryScalar():
            return _value(scalar.value)
        case pa.StringScalar() if scalar.is_valid:
            return scalar.as_buffer().to_pybytes().decode("utf-8", "replace")
        case pa.StructScalar() if scalar.is_valid:
            return {name: _value(value) for name, value in scalar.items()}
        case pa.ListScalar() if scalar.is_valid:
            return [_value(value) for value in scalar.values]
        case _:
            return scalar.as_py()
