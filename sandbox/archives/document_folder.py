"""Reads documents out of a folder of ``*.jsonl.zst`` files; the lines are not trusted."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard
from pydantic import ValidationError

from sandbox.archives.documents import ARCHIVE_OF, SandboxDocument
from storage.errors import ParameterError
from tasks.sources.files.containers import BoundedReader, ExpandsTooFar
from tasks.sources.files.tables import lines_of

SUFFIX = ".jsonl.zst"
MAX_LINE_BYTES = 32 * 2**20
MAX_FOLDER_BYTES = 8 * 2**30
"""Unpacked size of all files together: a bound on the disk that a hostile archive can fill."""
MAX_SKIPPED_KEPT = 1_000
MAX_NAMED = 5
_CHUNK_BYTES = 2**20

SOURCE_OF_FILE: dict[str, str] = {
    "archive_org_djvu_ocr": "internet_archive_books",
    "archive_org_philtrans_modern_ocr": "internet_archive_books",
    "speeches_pre1970": "historical_speeches",
    "newspapers_ocr": "historical_newspapers",
    "patents_post1976": "big_patent",
    "arxiv_papers": "arxiv_preprints",
    "pubmed_central": "scientific_papers",
    "textbooks_openstax": "scientific_papers",
    "modern_news": "news_summaries",
    "medical_advice": "medical_guidelines",
} | {source: source for source in ARCHIVE_OF}
"""The catalogue's source for a file of that name."""

SOURCE_OF_TYPE: dict[str, str] = SOURCE_OF_FILE | {
    "patent_pre1970": "us_patents",
    "patent_modern": "big_patent",
    "historical_book": "internet_archive_books",
    "classical_rhetoric": "historical_speeches",
    "historical_newspaper": "historical_newspapers",
    "preprint": "arxiv_preprints",
    "logic_training": "logical_reasoning",
    "academic_paper": "scientific_papers",
    "news_modern": "news_summaries",
    "wiki": "wikipedia",
    "government": "government_documents",
}
"""The catalogue's source for a line's ``source_type``, which decides in a file of an unknown name."""


@dataclass(frozen=True)
class SkippedLine:
    """A line that could not be served, and why."""

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


def names_a_source(path: Path) -> bool:
    """Tell whether a file of documents belongs to a source of the catalogue, by its name or by its first line."""
    if path.name.removesuffix(SUFFIX) in SOURCE_OF_FILE:
        return True
    try:
        with path.open("rb") as packed, zstandard.ZstdDecompressor().stream_reader(packed) as stream:
            line = json.loads(stream.read(_CHUNK_BYTES).partition(b"\n")[0])
    except (zstandard.ZstdError, OSError, ValueError, RecursionError):
        return False
    return isinstance(line, dict) and ("native_id" in line or line.get("source_type") in SOURCE_OF_TYPE)


class DocumentFolder:
    """The documents of a folder, read again at each iteration: files by name, lines in order.

    A line is either a `SandboxDocument` (it has ``native_id``) or a row with ``id``, ``doc_id``, ``source_type``,
    ``title``, ``author``, ``year``, ``text``, ``licence_note`` and optional ``date``, ``language``, ``lccn``,
    ``source_url``.

    Attributes:
        skipped: The lines left out by the last iteration, the first thousand of them.
        skipped_count: How many lines were left out in all.

    Raises:
        ParameterError: If the folder has no such files; on iteration, if a file cannot be unpacked, belongs to no
            known source, or unpacks to more than the bound.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # A named pipe would be waited for, and a device never ends. Links to files are the user's own arrangement.
        self.files = sorted(path for path in folder.glob(f"*{SUFFIX}") if path.is_file()) if folder.is_dir() else []
        if not self.files:
            raise ParameterError(f"{_fault_of(folder)}; name a folder with at least one *{SUFFIX} file")
        self.skipped: list[SkippedLine] = []
        self.skipped_count = 0
        self._room_bytes = MAX_FOLDER_BYTES

    def __iter__(self) -> Iterator[SandboxDocument]:
        self.skipped, self.skipped_count = [], 0
        self._room_bytes = MAX_FOLDER_BYTES
        all_served = 0
        for path in self.files:
            served = 0
            for number, line in self._lines(path):
                try:
                    document = _parse(line, path.name.removesuffix(SUFFIX))
                except ValueError as error:
                    self._skip(SkippedLine(path.name, number, str(error)))
                    continue
                served += 1
                yield document
            self._check_known(path, served)
            all_served += served
        if not all_served:
            raise ParameterError(f"{self.folder} contains no documents: {self._first_fault(self.files[0])}")

    def _lines(self, path: Path) -> Iterator[tuple[int, bytes | None]]:
        """Yield the lines that are not blank with their numbers; None stands for one above the size bound."""
        try:
            unpacker = zstandard.ZstdDecompressor()
            with path.open("rb") as packed, unpacker.stream_reader(packed, read_across_frames=True) as stream:
                bounded = BoundedReader(stream, self._room_bytes)
                yield from lines_of(io.BufferedReader(bounded, _CHUNK_BYTES), MAX_LINE_BYTES)
                self._room_bytes = bounded.left
        except ExpandsTooFar as error:
            raise ParameterError(
                f"{self.folder} unpacks to more than {MAX_FOLDER_BYTES:,} bytes (in {path.name}); serve fewer files"
            ) from error
        except (zstandard.ZstdError, OSError) as error:
            raise ParameterError(f"{path} cannot be unpacked ({error}); write it again with zstd") from error

    def _skip(self, skipped: SkippedLine) -> None:
        self.skipped_count += 1
        if len(self.skipped) < MAX_SKIPPED_KEPT:
            self.skipped.append(skipped)

    def _check_known(self, path: Path, served: int) -> None:
        stem = path.name.removesuffix(SUFFIX)
        if served or stem in SOURCE_OF_FILE:
            return
        faults = [skipped for skipped in self.skipped if skipped.file == path.name]
        first = self._first_fault(path)
        if not faults or not all(fault.reason.startswith("source_type ") for fault in faults):
            raise ParameterError(f"{path} contains no documents: {first}")
        raise ParameterError(
            f"{path} does not belong to a source of the catalogue ({first}). Name the file after one of "
            f"{', '.join(sorted(SOURCE_OF_FILE))}, or give its lines a source_type out of "
            f"{', '.join(sorted(SOURCE_OF_TYPE))}"
        )

    def _first_fault(self, path: Path) -> str:
        first = next((str(skipped) for skipped in self.skipped if skipped.file == path.name), None)
        return first or f"{path.name} is empty"


def _fault_of(folder: Path) -> str:
    if not folder.exists():
        return f"the folder {folder.resolve()} does not exist"
    if not folder.is_dir():
        return f"{folder} is a file, not a folder"
    names = sorted(path.name for path in folder.iterdir())
    there = (
        f"only {', '.join(names[:MAX_NAMED])}{' and more' if len(names) > MAX_NAMED else ''}" if names else "nothing"
    )
    return f"{folder} contains no *{SUFFIX} files, {there}"


def _parse(line: bytes | None, stem: str) -> SandboxDocument:
    """Turn a line into a document; ValueError with the reason for a bad one."""
    if line is None:
        raise ValueError(f"the line is longer than {MAX_LINE_BYTES:,} bytes")
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(row, dict):
        raise ValueError(f"expected a JSON object, found {type(row).__name__}")
    try:
        fields = row if "native_id" in row else _fields_of(row, stem)
        return SandboxDocument.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{place}: {first['msg']}" if place else first["msg"]) from None


def _fields_of(row: Mapping[str, Any], stem: str) -> dict[str, Any]:
    text = row.get("text")
    if not isinstance(text, str):
        raise ValueError("`text` is missing" if text is None else "text: must be a string")
    kind = str(row.get("source_type"))
    source = SOURCE_OF_FILE.get(stem) or SOURCE_OF_TYPE.get(kind)
    if source is None:
        raise ValueError(f"source_type {kind!r} is unknown")
    native_id = row.get("id")
    if not isinstance(native_id, str):
        raise ValueError("id: must be a string")
    metadata = row.get("metadata")
    url = row.get("source_url") or (metadata.get("url") if isinstance(metadata, dict) else None)
    renamed = {"part_of": row.get("doc_id"), "licence": row.get("licence_note"), "url": url}
    same = {name: row.get(name) for name in ("title", "author", "year", "date", "language", "text", "lccn")}
    return {"source": source, "native_id": native_id.removeprefix(f"{kind}:"), **same, **renamed}
