"""Writes the files of the sandbox hub's repositories, a few rows at a time."""

from __future__ import annotations

import gzip
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from sandbox.archives.hub_rows import Repository, Row

GROUP_ROWS, GROUP_CHARACTERS = 500, 2_000_000
FILE_ROWS, FILE_CHARACTERS = 10_000, 64_000_000


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file of a repository: its path, its size in bytes and its git object id."""

    path: str
    local: Path
    size: int
    oid: str


class RepositoryWriter:
    """Writes the rows of one repository into as many files as they need."""

    def __init__(self, repository: Repository, folder: Path) -> None:
        self._repository = repository
        self._folder = folder
        folder.mkdir(parents=True)
        self._parts: list[Path] = []
        self._group: list[Row] = []
        self._group_characters = self._rows = self._characters = self._total = 0
        self._parquet: pq.ParquetWriter | None = None
        self._json: IO[bytes] | None = None

    def add(self, row: Row, characters: int) -> None:
        """Add a row whose text has that many characters."""
        self._group.append(row)
        self._total += 1
        self._group_characters += characters
        if len(self._group) >= GROUP_ROWS or self._group_characters >= GROUP_CHARACTERS:
            self._write_group()

    def finish(self) -> list[HubFile]:
        """Close the last file and return all files of the repository, the card included."""
        self._write_group()
        self._close_part()
        card = self._folder / "README.md"
        card.write_text(self._repository.readme(), encoding="utf-8")
        total = len(self._parts)
        files = [_describe(self._name(number, total), part) for number, part in enumerate(self._parts)]
        return [_describe("README.md", card), *files]

    def card(self) -> dict[str, Any]:
        """Return what the hub tells of the card: how many rows the split has."""
        split = {"name": self._repository.split, "num_examples": self._total}
        return {"dataset_info": [{"config_name": self._repository.config or "default", "splits": [split]}]}

    def _name(self, number: int, total: int) -> str:
        repository = self._repository
        name = f"{repository.split}-{number:05d}-of-{total:05d}"
        match repository.form:
            case "parquet":
                return f"{repository.folder}/{name}.parquet"
            case "jsonl.gz":
                return f"{name}.jsonl.gz"
            case "json":
                return f"{name}.json"

    def _write_group(self) -> None:
        if not self._group:
            return
        if self._repository.form == "parquet":
            if self._parquet is None:
                self._parquet = pq.ParquetWriter(self._next_part(), self._repository.schema, compression="zstd")
            self._parquet.write_table(pa.Table.from_pylist(self._group, schema=self._repository.schema))
        else:
            if self._json is None:
                self._json = self._open_json(self._next_part())
            self._json.writelines(json.dumps(row).encode() + b"\n" for row in self._group)
        self._rows += len(self._group)
        self._characters += self._group_characters
        self._group, self._group_characters = [], 0
        if self._rows >= FILE_ROWS or self._characters >= FILE_CHARACTERS:
            self._close_part()

    def _open_json(self, path: Path) -> IO[bytes]:
        # A fixed time in the header: the same rows are the same bytes.
        return cast("IO[bytes]", gzip.GzipFile(path, "wb", 6, mtime=0)) if self._zipped else path.open("wb")

    @property
    def _zipped(self) -> bool:
        return self._repository.form == "jsonl.gz"

    def _next_part(self) -> Path:
        self._parts.append(self._folder / f"part-{len(self._parts):05d}")
        return self._parts[-1]

    def _close_part(self) -> None:
        if self._parquet is not None:
            self._parquet.close()
        if self._json is not None:
            self._json.close()
        self._parquet = self._json = None
        self._rows = self._characters = 0


def _describe(path: str, local: Path) -> HubFile:
    size = local.stat().st_size
    digest = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    with local.open("rb") as content:
        while chunk := content.read(2**20):
            digest.update(chunk)
    return HubFile(path, local, size, digest.hexdigest())
