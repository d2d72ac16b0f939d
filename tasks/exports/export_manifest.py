"""``export.json``, written last: what an export was made from and what it holds; and the result that a run reports."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from storage.atomic import write_text
from storage.errors import StoreError
from storage.safe_paths import InsideFile, is_own_file
from storage.untrusted import file_sha256, read_bounded, read_object

EXPORT = "export.json"
CARD = "README.md"
MODELFILE = "Modelfile"
TEXTS = (CARD, MODELFILE)
BESIDE = frozenset({".DS_Store", ".localized", "export-model.toml"})
"""Names of files that may go with an old export: those of the desktop, and the recipe, which every run writes anew."""


class Record(BaseModel):
    """Base of everything that an export records."""

    model_config = ConfigDict(frozen=True)


class FileRecord(Record):
    """One file of an export."""

    file: InsideFile
    bytes: int = Field(ge=0)
    sha256: str

    @classmethod
    def of(cls, folder: Path, name: str) -> Self:
        """Describe a file of a folder."""
        return cls(file=name, bytes=(folder / name).stat().st_size, sha256=file_sha256(folder / name))


class Agreement(Record):
    """How close the fused model is to base and adapter."""

    tokens: int
    max_logit_difference: float
    mean_logit_difference: float
    top1_agreement: float
    """Fraction of positions at which both rank the same token first."""


class ExportManifest(Record):
    """The record of a finished export."""

    format_version: int = 1
    name: str
    inputs: dict[str, str]
    """SHA-256 of every file that the weights depend on."""
    parameters: dict[str, str | int | bool]
    """The parameters that the weights depend on."""
    quantized: bool
    precision: str = ""
    """What was rounded when the adapter was fused in, in words."""
    layout: str = ""
    """Chat layout that is served and was trained; see `storage.chat_layout.ChatLayout.name`."""
    verification: Agreement | None
    """Agreement with base and adapter; none if the model is too large to be opened on this machine."""
    files: list[FileRecord]
    versions: dict[str, str]
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC))

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Read the record of a finished export: none without a folder, StoreError if it holds something else."""
        if not folder.exists():
            return None
        try:
            return cls.model_validate_json(read_bounded(folder / EXPORT))
        except (OSError, ValueError) as error:
            raise StoreError(
                f"{folder} is not an export of this pipeline ({EXPORT}: {type(error).__name__}); "
                "move it away or choose another export name"
            ) from error

    def write(self, folder: Path) -> None:
        """Write the record into the folder of the export."""
        write_text(folder / EXPORT, self.model_dump_json(indent=2) + "\n")

    @property
    def names(self) -> set[str]:
        """The recorded files."""
        return {record.file for record in self.files}

    def with_files(self, folder: Path, names: Iterable[str]) -> Self:
        """Return this record with the named files as they are in a folder now; the other records stay."""
        records = {record.file: record for record in self.files} | {name: FileRecord.of(folder, name) for name in names}
        return self.model_copy(update={"files": [records[name] for name in sorted(records)]})

    def is_whole(self, folder: Path) -> bool:
        """Tell whether every file is there in its recorded size; texts that are rewritten may differ.

        A link does not count as a file: its target was not exported, and must be neither served nor uploaded.
        """
        return all(
            is_own_file(folder, record.file)
            and (record.file in TEXTS or (folder / record.file).stat().st_size == record.bytes)
            for record in self.files
        )

    def holds(self, folder: Path, inputs: dict[str, str], parameters: dict[str, str | int | bool]) -> bool:
        """Tell whether a folder holds exactly the weights of these inputs and parameters."""
        return self.inputs == inputs and self.parameters == parameters and self.is_whole(folder)

    def require_replaceable(self, folder: Path) -> None:
        """Raise StoreError for a folder to which somebody has added files, which would be lost."""
        paths = [path for path in folder.rglob("*") if not path.is_dir() and path.name not in BESIDE]
        if foreign := sorted({path.relative_to(folder).as_posix() for path in paths} - self.names - {EXPORT}):
            raise StoreError(
                f"{folder} would be replaced but also holds {', '.join(foreign[:5])}; "
                "move what you want to keep or choose another export name"
            )

    def link_files(self, source: Path, target: Path) -> None:
        """Place the files in another folder, by hard links where the file system allows it, else by copies."""
        for record in self.files:
            place = target / record.file
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(source / record.file, place)
            except OSError:  # another file system, or one without links
                shutil.copyfile(source / record.file, place)


class Upload(Record):
    """What was sent to the Hub, or would be."""

    repository: str
    files: list[str]
    bytes: int
    digest: str
    """Identifies the content and the repository."""
    uploaded: bool
    address: str | None
    """Of the commit; none if nothing was sent."""


class ExportResult(Record):
    """What an export reports; parts that were not asked for are none."""

    folder: str
    files: list[FileRecord]
    precision: str
    max_logit_difference: float | None
    top1_agreement: float | None
    reused: bool
    gguf: str | None
    lm_studio_folder: str | None
    ollama: str | None
    """Name of the model in Ollama."""
    hub: Upload | None
    seconds: float

    def summary(self) -> list[str]:
        """Say where the model is and how close it is to the adapter."""
        size = sum(record.bytes for record in self.files) / 1e6
        agreement = self.top1_agreement
        measured = "not compared: too large for this machine" if agreement is None else f"{agreement:.3f}"
        lines = [
            f"{self.folder} ({size:.1f} MB)" + (" (unchanged)" if self.reused else ""),
            f"top-1 agreement with the adapter {measured}",
        ]
        places = {"GGUF": self.gguf, "LM Studio": self.lm_studio_folder, "Ollama": self.ollama}
        lines += [f"{name} {place}" for name, place in places.items() if place]
        if hub := self.hub:
            state = f"uploaded: {hub.address}" if hub.uploaded else "dry run, --no-hub-dry-run uploads"
            lines.append(f"Hub {hub.repository}: {len(hub.files)} files, {hub.bytes / 1e6:.1f} MB; {state}")
        return lines


def read_if_present(path: Path) -> dict[str, object]:
    """Read a JSON object: empty without a file, StoreError if the file holds something else."""
    try:
        return read_object(path)
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise StoreError(f"{path} cannot be read ({error}); run the stage that wrote it again") from error
