"""``export.json``: what an export was made from and what it holds; written last."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from storage.errors import StoreError
from storage.safe_paths import InsideFile, is_own_file
from storage.untrusted import file_sha256, read_bounded
from storage.untrusted import read_object as read_object_file

EXPORT = "export.json"
CARD = "README.md"
MODELFILE = "Modelfile"
TEXTS = (CARD, MODELFILE)
DESKTOP_FILES = frozenset({".DS_Store", ".localized"})


class FileRecord(BaseModel):
    """One file of an export."""

    model_config = ConfigDict(frozen=True)

    file: InsideFile
    bytes: int = Field(ge=0)
    sha256: str


class ExportManifest(BaseModel):
    """The record of a finished export."""

    model_config = ConfigDict(frozen=True)

    format_version: int = 1
    name: str
    inputs: dict[str, str]
    """SHA-256 of every file that the weights depend on."""
    parameters: dict[str, Any]
    """The parameters that the weights depend on."""
    quantized: bool
    precision: str = ""
    """What was rounded when the adapter was fused in, in words."""
    verification: dict[str, Any] | None
    """Agreement with base and adapter; none if the model is too large to be opened on this machine."""
    files: list[FileRecord]
    versions: dict[str, str]
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC))


def record_files(folder: Path) -> list[FileRecord]:
    """Describe every file of an export but its record, sorted by path."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path != folder / EXPORT]
    return sorted((record_file(path, folder) for path in paths), key=lambda record: record.file)


def record_file(path: Path, folder: Path) -> FileRecord:
    """Describe one file of an export."""
    return FileRecord(file=path.relative_to(folder).as_posix(), bytes=path.stat().st_size, sha256=file_sha256(path))


def link_files(source: Path, target: Path, manifest: ExportManifest) -> None:
    """Place the files of an export in another folder, by hard links where the file system allows it, else by copies."""
    for record in manifest.files:
        place = target / record.file
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source / record.file, place)
        except OSError:  # another file system, or one without links
            shutil.copyfile(source / record.file, place)


def read_export(folder: Path) -> ExportManifest | None:
    """Read the record of a finished export; none if there is no such folder.

    Raises:
        StoreError: The folder exists but is no export.
    """
    if not folder.exists():
        return None
    path = folder / EXPORT
    try:
        return ExportManifest.model_validate_json(read_bounded(path))
    except (OSError, ValueError) as error:
        raise StoreError(
            f"{folder} is not an export of this pipeline ({EXPORT}: {type(error).__name__}); "
            "move it away or choose another export name"
        ) from error


def is_whole(folder: Path, manifest: ExportManifest) -> bool:
    """Tell whether every file of an export is there in its recorded size; texts that are written anew may differ.

    A link is none of its files: what it leads to was not exported, and must be neither served nor uploaded.
    """
    return all(
        is_own_file(folder, record.file)
        and (record.file in TEXTS or (folder / record.file).stat().st_size == record.bytes)
        for record in manifest.files
    )


def require_replaceable(folder: Path, manifest: ExportManifest) -> None:
    """Refuse to replace an export in which somebody keeps files of their own.

    Raises:
        StoreError: The folder holds a file that its record does not name.
    """
    known = {record.file for record in manifest.files} | {EXPORT}
    paths = [path for path in folder.rglob("*") if not path.is_dir() and path.name not in DESKTOP_FILES]
    foreign = sorted(name for path in paths if (name := path.relative_to(folder).as_posix()) not in known)
    if foreign:
        raise StoreError(
            f"{folder} would be replaced but also holds {', '.join(foreign[:5])}; "
            "move what you want to keep or choose another export name"
        )


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object that may be missing; a missing one is empty.

    Raises:
        StoreError: The file exists but holds no JSON object.
    """
    try:
        return read_object_file(path)
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise StoreError(f"{path} cannot be read ({error}); run the stage that wrote it again") from error
