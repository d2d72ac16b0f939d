"""Documents of the user's own: a folder of JSON lines, CSV and Parquet files, or of texts."""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from storage.errors import ParameterError, SourceUnavailable
from storage.shard_plan import Item
from tasks.sources.catalogue import Columns, SourceSpec
from tasks.sources.file_rows import ROW_SUFFIXES, TEXT_SUFFIXES, BadLine, Row, read_rows
from tasks.sources.rows import RangeReader, map_row, missing_text, pick
from tasks.sources.source import NOTHING, Document, Reject, reserve

SCORE_COLUMNS = ("auth_weight", "prov_entropy", "trivium_category")
"""Scores that the user's rows may already have; they are kept beside the document."""
MOST_KINDS = 5


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

    remark = ""

    def __init__(self, spec: SourceSpec, current_year: int) -> None:
        self._spec = spec
        self._current_year = current_year
        self._root = Path(spec.path).expanduser()
        self._reader: RangeReader[Row] = RangeReader(self._open_at)
        self._has_text, self._without_text = False, ""

    async def close(self) -> None:
        """Close what is open."""
        await self._reader.close()

    async def count(self) -> int | None:
        """Count the texts of a folder of texts; none for tables, whose rows are counted when they are read.

        Raises:
            ParameterError: The folder or file is not there.
            SourceUnavailable: It holds no file that can be read.
        """
        files, _ = await asyncio.to_thread(self._files)
        return len(files) if files[0].endswith(TEXT_SUFFIXES) else None

    async def plan(self, limit: int, known: Mapping[str, Item] = NOTHING) -> list[Item]:
        """Cut the files into ranges of rows, enough for `limit` documents; a text file is one row.

        With a year filter it is not known how many rows that takes: then up to `scan_rows` rows, or all of them.

        Raises:
            ParameterError: The folder or file is not there.
            SourceUnavailable: It holds no file that can be read, one that is broken, or a known one that changed.
        """
        wanted = reserve(limit) * 2 if self._spec.year_filter is None else None
        bounds = [bound for bound in (wanted, self._spec.scan_rows) if bound is not None]
        files, refused = self._files()
        items = [Item(native_id=f"{file}:0", url=file, data={"refused": file}) for file in refused]
        empty = [file for file in files if self._path(file).stat().st_size == 0]
        items += [Item(native_id=f"{file}:empty", url=file, data={"empty": file}) for file in empty]
        files = [file for file in files if file not in set(empty)]
        items = [item for item in items if item.native_id not in known]
        planned = 0
        seen = {str(file) for item in known.values() for file, _ in item.data.get("texts", ())}
        sizes = {item.data["file"]: item.data["file_bytes"] for item in known.values() if "file" in item.data}
        for file in sizes:
            self._unchanged(file, sizes[file])  # rows added to a file would come after a range that is known
        async for item, rows in self._cut([file for file in files if file not in seen]):
            if planned >= min(bounds, default=planned + 1):
                break
            if item.native_id not in known:
                items.append(item)
                planned += rows
        if not known:
            self._check_found(planned, empty)
        return items

    def _check_found(self, planned: int, empty: list[str]) -> None:
        name = f"source {self._spec.name!r}"
        if not planned:
            why = f"; {empty[0]} is empty (0 bytes)" if empty else ", only blank lines"
            raise SourceUnavailable(f"{name}: the files in {self._root} hold no rows{why}")
        if self._without_text and not self._has_text:
            raise SourceUnavailable(
                f"{name}: none of the {planned} rows read in {self._root} has a text. {self._without_text}"
            )

    async def _cut(self, files: list[str]) -> AsyncIterator[tuple[Item, int]]:
        """Yield the items of the files, and how many rows each holds."""
        step = self._spec.rows_per_item
        if files and files[0].endswith(TEXT_SUFFIXES):
            for begin in range(0, len(files), step):
                texts = [[file, self._path(file).stat().st_size] for file in files[begin : begin + step]]
                yield Item(native_id=f"{texts[0][0]}:0", url=str(texts[0][0]), data={"texts": texts}), len(texts)
            return
        for file in files:
            size = self._path(file).stat().st_size
            for start, rows in await self._ranges_of(file):
                data = {"file": file, "file_bytes": size, "start": start, "rows": rows}
                yield Item(native_id=f"{file}:{start}", url=file, data=data), rows

    def _files(self) -> tuple[list[str], list[str]]:
        """Name the files to read, and those that a link leads to outside the folder.

        Text files count only where there are no tables: beside tables, a text file is a note.
        """
        if self._root.is_file():
            names = [self._root.name]
        elif self._root.is_dir():
            paths = [path.relative_to(self._root) for path in self._root.rglob("*") if path.is_file()]
            names = sorted(path.as_posix() for path in paths if not any(part.startswith(".") for part in path.parts))
        else:
            raise ParameterError(
                f"source {self._spec.name!r}: path {self._spec.path!r} is neither folder nor file; "
                f"{self._root.resolve()} {'is of another kind' if self._root.exists() else 'does not exist'}"
            )
        found = [name for name in names if name.endswith(ROW_SUFFIXES)]
        found = found or [name for name in names if name.endswith(TEXT_SUFFIXES)]
        files = [name for name in found if self._is_inside(name)]
        if not files:
            raise SourceUnavailable(
                f"source {self._spec.name!r}: {self._root} holds no file that ends in "
                f"{', '.join((*ROW_SUFFIXES, *TEXT_SUFFIXES))}; {_contents(names)}"
            )
        return files, [name for name in found if name not in set(files)]

    def _is_inside(self, file: str) -> bool:
        return self._root.is_file() or (self._root / file).resolve().is_relative_to(self._root.resolve())

    def _path(self, file: str) -> Path:
        return self._root if self._root.is_file() else self._root / file

    def _unchanged(self, file: str, size: int) -> Path:
        """Return the path of a file that is still as it was planned; a plan on disk is checked."""
        path = self._path(file)
        if not self._is_inside(file) or not path.is_file() or path.stat().st_size != size:
            raise SourceUnavailable(
                f"source {self._spec.name!r}: {file} changed since it was planned; "
                "change `snapshot` of the catalogue entry to plan again"
            )
        return path

    async def _ranges_of(self, file: str) -> list[tuple[int, int]]:
        """Count a file's rows by reading it once, and cut them."""
        step = self._spec.rows_per_item
        ranges: list[tuple[int, int]] = []
        while rows := await self._reader.read(file, len(ranges) * step, step):
            self._note_texts(file, rows)
            ranges.append((len(ranges) * step, len(rows)))
        return ranges

    def _note_texts(self, file: str, rows: list[Row]) -> None:
        """Remember whether any row has a text, and what is wrong with the first that has none."""
        if self._has_text:
            return
        for row in rows:
            if isinstance(row, BadLine):
                problem = row.detail
            elif isinstance(text := pick(row, self._spec.columns.text), str) and text.strip():
                self._has_text = True
                return
            else:
                problem = missing_text(row, self._spec.columns, row.place)
                problem += "; name the column of the text with `columns.text` of the catalogue entry"
            self._without_text = self._without_text or f"{file}, {problem}"

    async def fetch(self, item: Item) -> AsyncIterator[Document | Reject]:
        """Read one range of rows.

        Raises:
            SourceUnavailable: The file changed since it was planned.
        """
        if refused := item.data.get("refused"):
            yield Reject(f"{self._spec.name}:{refused}", None, "outside-folder", "a link that leads out of the folder")
            return
        if empty := item.data.get("empty"):
            yield Reject(f"{self._spec.name}:{empty}", str(empty), "empty-file", f"{empty} has 0 bytes")
            return
        if texts := item.data.get("texts"):
            for file, size in texts:
                yield await asyncio.to_thread(self._text, str(file), int(size))
            return
        file, start = str(item.data["file"]), int(item.data["start"])
        self._unchanged(file, int(item.data["file_bytes"]))
        rows = await self._reader.read(file, start, int(item.data["rows"]))
        for number, row in enumerate(rows, start):
            if isinstance(row, BadLine):
                yield Reject(f"{self._spec.name}:{file}:{number}", file, row.reason, row.detail)
            else:
                yield self._mapped(row, file, number)

    def _mapped(self, row: dict[str, Any], file: str, number: int) -> Document | Reject:
        outcome = map_row(row, number, self._spec, self._current_year, origin=file)
        if outcome.id == f"{self._spec.name}:row-{number}":
            # Rows of two files share their numbers.
            outcome = dataclasses.replace(outcome, id=f"{self._spec.name}:{file}:{number}")
        if isinstance(outcome, Document):
            scores = {name: _number(row[name]) for name in SCORE_COLUMNS if row.get(name) is not None}
            outcome = dataclasses.replace(outcome, extra={**outcome.extra, **scores})
        return outcome

    def _open_at(self, file: str, start: int) -> Iterator[Row]:
        return islice(read_rows(self._path(file), self._spec.max_line_bytes), start, None)

    def _text(self, file: str, size: int) -> Document | Reject:
        """Read a text file as one document, named by its file."""
        name, cap = f"{self._spec.name}:{file}", self._spec.max_line_bytes
        path = self._unchanged(file, size)
        if size > cap:
            return Reject(name, file, "file-too-large", f"{size} bytes, the cap is max_line_bytes = {cap}")
        row = {"text": path.read_bytes().decode("utf-8-sig", "replace"), "title": path.stem, "id": file}
        spec = self._spec.model_copy(update={"columns": Columns(text="text", title="title", id="id")})
        return map_row(row, 0, spec, self._current_year, origin=file)


def _contents(names: list[str]) -> str:
    """Say what a folder holds instead of files that can be read."""
    if not names:
        return "it is empty"
    kinds = Counter(Path(name).suffix or Path(name).name for name in names)
    named = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(MOST_KINDS))
    return f"it holds {named}" + (" and others" if len(kinds) > MOST_KINDS else "")


def _number(value: Any) -> Any:
    """Return the number that a text spells, since CSV knows no numbers; anything else as it is."""
    try:
        number = float(value) if isinstance(value, str) else math.nan
    except ValueError:
        return value
    return number if math.isfinite(number) else value
