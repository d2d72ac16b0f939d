"""Documents of the user's own: a folder of JSON lines (plain, zstd or gzip) and Parquet files."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from storage.errors import ParameterError, SourceUnavailable
from storage.shard_plan import Item
from tasks.sources.catalogue import SourceSpec
from tasks.sources.ranges import RangeReader
from tasks.sources.rows import map_row
from tasks.sources.source import NOTHING, Document, Reject, reserve

PARQUET = ".parquet"
SUFFIXES = (".jsonl", ".jsonl.zst", ".jsonl.gz", PARQUET)

FileRow = dict[str, Any] | Reject


@asynccontextmanager
async def open_local_files(spec: SourceSpec, current_year: int) -> AsyncIterator[LocalFiles]:
    """Open the files that a catalogue entry names."""
    source = LocalFiles(spec, current_year)
    try:
        yield source
    finally:
        await source.close()


class LocalFiles:
    """Rows of files, file by file in the order of their names."""

    def __init__(self, spec: SourceSpec, current_year: int) -> None:
        self._spec = spec
        self._current_year = current_year
        self._root = Path(spec.path).expanduser()
        self._reader: RangeReader[FileRow] = RangeReader(self._open_at)

    async def close(self) -> None:
        """Close what is open."""
        await self._reader.close()

    async def count(self) -> int | None:
        """Nobody counts the rows before they are read."""
        return None

    async def plan(self, limit: int, known: Mapping[str, Item] = NOTHING) -> list[Item]:
        """Cut the files into ranges of rows, enough for `limit` documents.

        With a year filter nobody knows how many rows that takes: then up to `scan_rows` rows, or all of them.

        Raises:
            ParameterError: The folder or file is not there.
            SourceUnavailable: It holds no file that can be read, or one that is broken.
        """
        wanted = reserve(limit) * 2 if self._spec.year_filter is None else None
        items: list[Item] = []
        planned = 0
        for file in self._files():
            for start, rows in await self._ranges_of(file):
                if planned >= (self._spec.scan_rows or planned + 1) or (wanted is not None and planned >= wanted):
                    return items
                size = self._path(file).stat().st_size
                data = {"file": file, "file_bytes": size, "start": start, "rows": rows}
                item = Item(native_id=f"{file}:{start}", url=file, data=data)
                if item.native_id not in known:
                    items.append(item)
                    planned += rows
        if not items and not known:
            raise SourceUnavailable(f"source {self._spec.name!r}: the files in {self._root} hold no rows")
        return items

    def _files(self) -> list[str]:
        if self._root.is_file():
            names = [self._root.name]
        elif self._root.is_dir():
            names = sorted(path.relative_to(self._root).as_posix() for path in self._root.rglob("*") if path.is_file())
        else:
            raise ParameterError(f"source {self._spec.name!r}: path {self._spec.path!r} is neither folder nor file")
        files = [name for name in names if name.endswith(SUFFIXES) and not name.startswith(".")]
        if not files:
            raise SourceUnavailable(
                f"source {self._spec.name!r}: {self._root} holds no file that ends in {', '.join(SUFFIXES)}"
            )
        return files

    def _path(self, file: str) -> Path:
        return self._root if self._root.is_file() else self._root / file

    async def _ranges_of(self, file: str) -> list[tuple[int, int]]:
        """Count a file's rows by reading it once, and cut them."""
        step = self._spec.rows_per_item
        ranges: list[tuple[int, int]] = []
        while rows := await self._reader.read(file, len(ranges) * step, step):
            ranges.append((len(ranges) * step, len(rows)))
        return ranges

    async def fetch(self, item: Item) -> AsyncIterator[Document | Reject]:
        """Read one range of rows.

        Raises:
            SourceUnavailable: The file changed since it was planned.
        """
        file, start = str(item.data["file"]), int(item.data["start"])
        path = self._path(file)
        if not path.is_file() or path.stat().st_size != item.data["file_bytes"]:
            raise SourceUnavailable(
                f"source {self._spec.name!r}: {file} changed since it was planned; "
                "change `snapshot` of the catalogue entry to plan anew"
            )
        rows = await self._reader.read(file, start, int(item.data["rows"]))
        for number, row in enumerate(rows, start):
            if isinstance(row, Reject):
                yield row
            else:
                yield self._mapped(row, file, number)

    def _mapped(self, row: dict[str, Any], file: str, number: int) -> Document | Reject:
        outcome = map_row(row, number, self._spec, self._current_year, origin=file)
        if not self._spec.columns.id:
            # Rows of two files share their numbers.
            fields = {**outcome.__dict__, "id": f"{self._spec.name}:{file}:{number}"}
            return type(outcome)(**fields)
        return outcome

    def _open_at(self, file: str, start: int) -> Iterator[FileRow]:
        path = self._path(file)
        return _parquet_rows(path, start) if file.endswith(PARQUET) else self._json_rows(path, file, start)

    def _json_rows(self, path: Path, file: str, start: int) -> Iterator[FileRow]:
        cap = self._spec.max_line_bytes
        try:
            with _open_binary(path) as stream:
                for number, line in enumerate(_lines(stream, cap)):
                    if number >= start:
                        yield self._parsed(line, file, number)
        except (OSError, EOFError, zstandard.ZstdError) as error:
            raise SourceUnavailable(f"source {self._spec.name!r}: {file} is broken ({error})") from error

    def _parsed(self, line: bytes | None, file: str, number: int) -> FileRow:
        def reject(reason: str, detail: str) -> Reject:
            return Reject(f"{self._spec.name}:{file}:{number}", file, reason, detail)

        if line is None:
            return reject("line-too-long", f"line {number + 1} exceeds {self._spec.max_line_bytes} bytes")
        try:
            value = json.loads(line)
        except UnicodeDecodeError as error:
            return reject("bad-encoding", f"line {number + 1} is not UTF-8 ({error.reason})")
        except (ValueError, RecursionError) as error:
            return reject("bad-json", f"line {number + 1}: {error}")
        return value if isinstance(value, dict) else reject("bad-json", f"line {number + 1} is no JSON object")


def _open_binary(path: Path) -> IO[bytes]:
    if path.name.endswith(".zst"):
        return io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(path.open("rb"), closefd=True))
    if path.name.endswith(".gz"):
        return io.BufferedReader(gzip.GzipFile(path, "rb"))
    return path.open("rb")


def _lines(stream: IO[bytes], cap: int) -> Iterator[bytes | None]:
    """Yield the lines that are not blank; none in place of a line longer than `cap` bytes, which is never held."""
    while line := stream.readline(cap + 1):
        if len(line) > cap and not line.endswith(b"\n"):
            while (rest := stream.readline(cap)) and not rest.endswith(b"\n"):
                pass
            yield None
        elif line.strip():
            yield line


def _parquet_rows(path: Path, start: int) -> Iterator[FileRow]:
    try:
        with pq.ParquetFile(path) as file:
            before = 0
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if before + rows > start:
                    for batch in file.iter_batches(batch_size=256, row_groups=[group]):
                        yield from batch.slice(max(0, min(start - before, batch.num_rows))).to_pylist()
                        before += batch.num_rows
                else:
                    before += rows
    except (pa.ArrowException, OSError) as error:
        raise SourceUnavailable(f"{path.name} is broken ({error})") from error
