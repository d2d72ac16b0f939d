"""A manifest is written last, so a dataset whose manifest exists is complete."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from storage.atomic import write_text
from storage.errors import StoreError
from storage.safe_paths import InsideFile
from storage.untrusted import file_sha256, one_line, read_bounded

Notes = TypeVar("Notes", bound=BaseModel)

MANIFEST = "manifest.json"
MOST_MANIFEST_BYTES = 256 << 20
"""Ten times the manifest of a source with 100,000 shards."""


class ShardRecord(BaseModel):
    """One finished shard: its path below the dataset's folder, and what it holds."""

    model_config = ConfigDict(frozen=True)

    file: InsideFile
    rows: int = Field(ge=0)
    bytes: int = Field(ge=0)
    sha256: str


class SourceNotes(BaseModel):
    """What later stages read in the notes of a downloaded source."""

    trivium: str = ""


class MixtureNotes(BaseModel):
    """What later stages read in the notes of a mixture."""

    verdict: dict[str, str] = {}
    """For each side, how well it keeps to the targets: ``good``, ``acceptable`` or ``poor``."""


class Manifest(BaseModel):
    """What a finished dataset holds and what it was made from."""

    model_config = ConfigDict(frozen=True)

    kind: str
    name: str
    inputs: dict[str, str] = {}
    """Digest of every input, by name: the same inputs and parameters need no second run."""
    parameters: dict[str, Any] = {}
    shards: list[ShardRecord]
    counts: dict[str, int] = {}
    notes: dict[str, Any] = {}
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC))

    @property
    def rows(self) -> int:
        """Total rows over all shards."""
        return sum(shard.rows for shard in self.shards)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over what the dataset is: kind, name, inputs, parameters and the shards' own hashes."""
        content = self.model_dump(mode="json", include={"kind", "name", "inputs", "parameters", "shards"})
        return digest_of(content)

    def notes_as(self, model: type[Notes]) -> Notes:
        """Read the notes as a model; StoreError if they do not fit it."""
        try:
            return model.model_validate(self.notes)
        except ValidationError as error:
            raise StoreError(
                f"the manifest of {self.kind}/{self.name} is damaged ({one_line(error)}); "
                "delete it and run the stage again"
            ) from error

    def made_from(self, inputs: Mapping[str, str], parameters: Mapping[str, object]) -> bool:
        """Tell whether this dataset was made from exactly these inputs and parameters."""
        return self.inputs == inputs and digest_of(self.parameters) == digest_of(parameters)


def digest_of(content: Any) -> str:
    """SHA-256 of a JSON-able value in canonical form (sorted keys, no blanks), as lower-case hex."""
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def canonical_json(content: Any) -> str:
    """Write a JSON-able value in the one form that its digest is taken of: sorted keys, no blanks, ASCII."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str)


def record_shard(folder: Path, path: Path) -> ShardRecord:
    """Describe a finished shard below `folder`."""
    from storage.parquet import count_rows  # loads Arrow, which reading a manifest does not need

    return ShardRecord(
        file=path.relative_to(folder).as_posix(),
        rows=count_rows(path),
        bytes=path.stat().st_size,
        sha256=file_sha256(path),
    )


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Complete a dataset: write its manifest, atomically and last."""
    write_text(folder / MANIFEST, manifest.model_dump_json(indent=2) + "\n")


def read_manifest(folder: Path) -> Manifest | None:
    """Read a dataset's manifest; None if the dataset is not complete.

    Raises:
        StoreError: The manifest exists but cannot be understood.
    """
    path = folder / MANIFEST
    try:
        return Manifest.model_validate_json(read_bounded(path, MOST_MANIFEST_BYTES))
    except FileNotFoundError:
        return None
    except ValueError as error:
        fault = one_line(error) if isinstance(error, ValidationError) else error
        raise StoreError(f"{path} is not a manifest ({fault}); delete it and run the stage again") from error


def require_manifest(folder: Path, next_step: str) -> Manifest:
    """Read a dataset's manifest; `next_step` tells the user how to make it.

    Raises:
        StoreError: The dataset does not exist or is not complete.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        raise StoreError(f"{folder} contains no finished dataset; {next_step}")
    return manifest


def find_damage(folder: Path, manifest: Manifest, *, hashes: bool = False) -> list[str]:
    """List the shards that are missing or changed since the manifest was written (sizes; hashes on request)."""
    return [shard.file for shard in manifest.shards if _is_damaged(f"{folder}/{shard.file}", shard, hashes)]


def _is_damaged(path: str, shard: ShardRecord, hashes: bool) -> bool:
    """Tell whether a shard is missing or changed; a plain path, since there may be 100,000 of them."""
    try:
        status = os.stat(path)
    except OSError:
        return True
    if not stat.S_ISREG(status.st_mode) or status.st_size != shard.bytes:
        return True
    return hashes and file_sha256(Path(path)) != shard.sha256
