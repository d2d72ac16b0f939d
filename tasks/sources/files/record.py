"""What reading a file yields: rows, bad lines in their place, and the text of a whole file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class Unreadable(Exception):
    """A file that does not become a document: whatever reads files here raises it.

    Args:
        reason: A short, countable reason (dash-case).
        detail: The sentence for a person.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class BadLine:
    """A line, row or file that is not a document: the countable reason, and the sentence for a person.

    Attributes:
        file: The file it belongs to, where that is a member of an archive.
        key: What names it in that file, if it is not its number.
    """

    reason: str
    detail: str
    file: str = ""
    key: str = ""


class FileRow(dict[str, Any]):
    """A row, and where it is.

    Attributes:
        place: Where in its file, for a person.
        file: The file it belongs to, where that is a member of an archive.
        key: What names it in that file, if it is not its number.
        columns: The columns of its table, also those that are empty in this row; none if its rows name their own.
        is_document: Whether it is the text of a whole file, whose fields are already named.
    """

    place = ""
    file = ""
    key = ""
    columns: list[str] | None = None
    is_document = False


Row = FileRow | BadLine

WHOLE_FILE = "."
"""The key of a row that is the only one of its file."""


def placed(values: Mapping[str, Any], place: str, columns: list[str] | None = None) -> FileRow:
    """Make a row that knows its place."""
    row = FileRow(values)
    row.place, row.columns = place, columns
    return row


@dataclass
class FileText:
    """The text of a whole file, and what the file says about it.

    Attributes:
        made: When the file itself was made, which says little about its text.
        extra: What else is kept beside the document.
    """

    text: str
    title: str = ""
    author: str = ""
    date: str = ""
    language: str = ""
    made: str = ""
    extra: dict[str, Any] = field(default_factory=dict)
