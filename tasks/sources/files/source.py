"""Documents of the user's own: the files of a folder, whatever they are, or a single file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from storage.errors import ParameterError, SourceUnavailable
from storage.shard_plan import Item
from tasks.sources.catalogue import SourceSpec
from tasks.sources.files.columns import MOST_BYTES, Descriptions
from tasks.sources.files.kinds import DOCUMENTS, TABLES
from tasks.sources.files.mapping import RowMapper
from tasks.sources.files.reading import FileReader
from tasks.sources.files.record import BadLine, Row, Unreadable
from tasks.sources.files.walk import LISTING, Sorted, Tree, first_faults, remark_on, walk
from tasks.sources.rows import RangeReader, missing_text, pick
from tasks.sources.source import NOTHING, Document, Reject, reserve

ITEM_BYTES = 16 * 2**20
"""Files that are fetched together hold about so much, so that a download of large ones takes little memory."""


class LocalFiles:
    """Documents and rows of files, file by file in the order of their names."""

    def __init__(self, spec: SourceSpec, current_year: int) -> None:
        self.remark = ""
        self._spec = spec
        self._current_year = current_year
        self._root = Path(spec.path).expanduser()
        self._files = FileReader(spec, current_year)
        self._mapper = RowMapper(self._files, current_year)
        self._reader: RangeReader[Row] = RangeReader(self._open_at)
        self._counter: RangeReader[Row] = RangeReader(self._count_at)
        self._has_text, self._without_text = False, ""
        self._descriptions: dict[tuple[str, ...], Descriptions] = {}

    async def aclose(self) -> None:
        """Close what is open."""
        await self._reader.close()
        await self._counter.close()
        await asyncio.to_thread(self._files.parsers.close)

    async def count(self) -> int | None:
        """Count the documents of a folder of documents; none if there are tables, whose rows are counted when read."""
        found = await asyncio.to_thread(self._sort)
        self._require_files(found)
        return None if found.tables else len(found.texts)

    async def plan(self, limit: int, known: Mapping[str, Item] = NOTHING) -> list[Item]:
        """Cut the files into ranges of rows, enough for `limit` documents; a document file is one row.

        With a year filter it is not known how many rows that takes: then up to `scan_rows` rows, or all of them.
        """
        wanted = reserve(limit) * 2 if self._spec.year_filter is None else None
        bounds = [bound for bound in (wanted, self._spec.scan_rows) if bound is not None]
        found = await asyncio.to_thread(self._sort)
        self._require_files(found)
        sizes = {item.data["file"]: item.data["file_bytes"] for item in known.values() if "file" in item.data}
        for file in sizes:
            self._unchanged(file, sizes[file])  # rows added to a file would come after a range that is known
        seen = {
            str(entry[0]) for item in known.values() for key in ("texts", "rejects") for entry in item.data.get(key, ())
        }
        items = [item for item in self._rejects(found, seen) if item.native_id not in known]
        planned = 0
        async for item, rows in self._cut(found, seen):
            if planned >= min(bounds, default=planned + 1):
                break
            if item.native_id not in known:
                items.append(item)
                planned += rows
        if not known:
            self._check_found(planned, found)
        return items

    def _rejects(self, found: Sorted, seen: set[str]) -> Iterator[Item]:
        """Yield the items of the files that are not read."""
        missing = self._describe(tuple(found.sidecars)).missing if found.sidecars else {}
        faults = found.faults + [
            [f"{table}:{place}", "no-such-file", f"{place} describes {name!r}, which is not in the folder"]
            for table, places in missing.items()
            for place, name in places
        ]
        fresh = [fault for fault in faults if fault[0] not in seen]
        for begin in range(0, len(fresh), self._spec.rows_per_item):
            part = fresh[begin : begin + self._spec.rows_per_item]
            yield Item(native_id=f"{part[0][0]}:rejects", url=part[0][0], data={"rejects": part})

    def _check_found(self, planned: int, found: Sorted) -> None:
        name = f"source {self._spec.name!r}"
        if not planned:
            raise SourceUnavailable(f"{name}: the files in {self._root} hold no rows{first_faults(found.faults)}")
        if self._without_text and not self._has_text and not found.texts:
            raise SourceUnavailable(
                f"{name}: none of the {planned} rows read in {self._root} has a text. {self._without_text}"
            )

    def _require_files(self, found: Sorted) -> None:
        if not (found.texts or found.tables):
            raise SourceUnavailable(
                f"source {self._spec.name!r}: {self._root} holds no file that can be read"
                f"{first_faults(found.faults) or '; it is empty'}"
            )

    async def _cut(self, found: Sorted, seen: set[str]) -> AsyncIterator[tuple[Item, int]]:
        """Yield the items of the files, and how many rows each holds."""
        texts: list[list[Any]] = []
        for file in [file for file in found.texts if file not in seen]:
            texts.append([file, self._path(file).stat().st_size])
            if len(texts) >= self._spec.rows_per_item or sum(size for _, size in texts) >= ITEM_BYTES:
                yield self._item_of(texts, found), len(texts)
                texts = []
        if texts:
            yield self._item_of(texts, found), len(texts)
        for file in found.tables:
            size = self._path(file).stat().st_size
            for start, rows in await self._ranges_of(file):
                data = {"file": file, "file_bytes": size, "start": start, "rows": rows}
                yield Item(native_id=f"{file}:{start}", url=file, data=data), rows

    def _item_of(self, texts: list[list[Any]], found: Sorted) -> Item:
        first = str(texts[0][0])
        sidecars = {"sidecars": found.sidecars} if found.sidecars else {}
        return Item(native_id=f"{first}:0", url=first, data={"texts": texts, **sidecars})

    def _sort(self) -> Sorted:
        """Tell the files apart, without reading them to their end."""
        tree = self._walk()
        found = Sorted(faults=[list(fault) for fault in tree.faults])
        kinds: dict[str, str] = {}
        for name in tree.files:
            try:
                kinds[name] = self._files.kind(self._path(name), name)[0]
            except Unreadable as error:
                found.faults.append([name, error.reason, error.detail])
        found.texts = [name for name, kind in kinds.items() if kind in DOCUMENTS]
        found.tables = [name for name, kind in kinds.items() if kind not in DOCUMENTS]
        if self._files.is_described:
            if any(kinds[name] in TABLES for name in found.tables):
                # Its columns say that the entry is about tables; a text beside them is a remark.
                why = "the entry names columns, so its tables are read; give texts a source of their own"
                found.faults += [[name, "beside-tables", why] for name in found.texts]
                found.texts = []
        else:
            found.sidecars = self._find_sidecars(found, kinds)
            found.tables = [name for name in found.tables if name not in found.sidecars]
        found.faults.sort()
        self.remark = "; ".join(filter(None, [remark_on(tree), *self._remarks_on(found.sidecars)]))
        return found

    def _walk(self) -> Tree:
        if self._root.is_file():
            return Tree(files=[self._root.name])
        if self._root.is_dir():
            return walk(self._root)
        raise ParameterError(
            f"source {self._spec.name!r}: path {self._spec.path!r} is neither folder nor file; "
            f"{self._root.resolve()} {'is of another kind' if self._root.exists() else 'does not exist'}"
        )

    def _find_sidecars(self, found: Sorted, kinds: Mapping[str, str]) -> list[str]:
        if not found.texts:
            return []
        tables = [name for name in found.tables if kinds[name] in TABLES]
        small = [name for name in tables if self._path(name).stat().st_size <= MOST_BYTES]
        probe = Descriptions()
        return [name for name in small if probe.add(name, self._files.table_rows(self._path(name), name), list(kinds))]

    def _remarks_on(self, sidecars: list[str]) -> Iterator[str]:
        if sidecars:
            count = len(self._describe(tuple(sidecars)).of_file)
            yield f"{', '.join(sidecars)} {'describes' if len(sidecars) == 1 else 'describe'} {count} of the files"

    def _describe(self, sidecars: tuple[str, ...]) -> Descriptions:
        """Read the tables that describe files; their names are kept in the plan."""
        if sidecars not in self._descriptions:
            descriptions, files = Descriptions(), self._walk().files
            for name in sidecars:
                if self._path(name).is_file() and self._is_inside(name):
                    descriptions.add(name, self._files.table_rows(self._path(name), name), files)
            self._descriptions[sidecars] = descriptions
        return self._descriptions[sidecars]

    def _is_inside(self, file: str) -> bool:
        return self._root.is_file() or (self._root / file).resolve().is_relative_to(self._root.resolve())

    def _path(self, file: str) -> Path:
        return self._root if self._root.is_file() else self._root / file

    def _unchanged(self, file: str, size: int) -> Path:
        """Return the path of a file that is still as it was planned; a plan on disk is checked."""
        path = self._path(file)
        if not self._is_inside(file) or not path.is_file() or path.stat().st_size != size:
            what = (
                "run again" if self._spec.snapshot.startswith(LISTING) else "change `snapshot` of the catalogue entry"
            )
            raise SourceUnavailable(
                f"source {self._spec.name!r}: {file} changed since it was planned; {what} to plan anew"
            )
        return path

    async def _ranges_of(self, file: str) -> list[tuple[int, int]]:
        """Count a file's rows by reading it once, and cut them."""
        step = self._spec.rows_per_item
        ranges: list[tuple[int, int]] = []
        while rows := await self._counter.read(file, len(ranges) * step, step):
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
            elif not row or (
                isinstance(text := pick(row, (spec := self._mapper.mapping(row)).columns.text), str) and text.strip()
            ):  # a document that is not parsed yet
                self._has_text = True
                return
            else:
                problem = missing_text(row, spec.columns, row.place)
                problem += "; name the column of the text with " + (
                    "`columns.text` of the catalogue entry" if self._files.is_described else "--text-column NAME"
                )
            self._without_text = self._without_text or f"{file}, {problem}"

    async def fetch(self, item: Item) -> AsyncIterator[Document | Reject]:
        """Read one range of rows, or a few documents, out of files that are as they were planned."""
        for file, reason, detail in item.data.get("rejects", ()):
            yield Reject(f"{self._spec.name}:{file}", file, reason, detail)
        if texts := item.data.get("texts"):
            described = await asyncio.to_thread(self._describe, tuple(item.data.get("sidecars", ())))
            for file, size in texts:
                fields = described.of_file.get(str(file), {})
                yield await asyncio.to_thread(self._text, str(file), int(size), fields)
        if "file" not in item.data:
            return
        file, start = str(item.data["file"]), int(item.data["start"])
        self._unchanged(file, int(item.data["file_bytes"]))
        rows = await self._reader.read(file, start, int(item.data["rows"]))
        for number, row in enumerate(rows, start):
            yield self._mapper.outcome(row, file, number)

    def _open_at(self, file: str, start: int) -> Iterator[Row]:
        return islice(self._files.rows(self._path(file), file), start, None)

    def _count_at(self, file: str, start: int) -> Iterator[Row]:
        return islice(self._files.rows(self._path(file), file, light=True), start, None)

    def _text(self, file: str, size: int, described: Mapping[str, Any]) -> Document | Reject:
        """Read a file that is one document, named by its path."""
        row = self._files.document(self._unchanged(file, size), file, described)
        return self._mapper.outcome(row, file, 0)
