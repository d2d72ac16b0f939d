"""The record of one written document, in the field order of the files."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class WrittenDocument:
    """A document of the sandbox corpus; `year` is that of publication, `date` its day where the archive has one."""

    source: str
    native_id: str
    title: str | None
    author: str | None
    year: int
    date: str | None
    language: str
    licence: str
    text: str
    part_of: str | None
    url: str | None

    def as_row(self) -> dict[str, object]:
        """Return the fields in the order in which they are written."""
        return asdict(self)
