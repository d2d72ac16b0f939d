"""What the columns of a table hold, told by their names; and tables that describe the files beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from tasks.sources.catalogue import Columns
from tasks.sources.files.record import FileRow, Row

NAMES: dict[str, tuple[str, ...]] = {
    "text": (
        *("text", "full_text", "fulltext", "content", "contents", "body", "transcription", "transcript", "ocr_text"),
        *("ocr", "raw_text", "plain_text", "page_text", "document", "article", "letter", "passage", "story", "message"),
        *("texte", "texto", "testo", "inhalt", "volltext", "markdown"),
    ),
    "title": ("title", "headline", "heading", "subject", "titel", "titre", "titolo", "titulo"),
    "author": ("author", "authors", "creator", "writer", "byline", "by", "sender", "autor", "auteur", "autore"),
    "year": ("year", "publication_year", "pub_year", "jahr", "annee", "anno", "ano"),
    "date": ("date", "publication_date", "pub_date", "published", "published_at", "issued", "written", "datum"),
    "language": ("language", "lang", "sprache", "langue"),
    "licence": ("licence", "license", "rights", "lizenz"),
    "url": ("url", "link", "source_url"),
    "source_type": ("source_type", "kind_of_document"),
}
"""The names of columns by which each field is known, the surest first; in any case, with blanks, dots or dashes."""
TEXT_ENDS = ("_text", "_content", "_body", "_transcription", "_transcript")
"""How the name of a column of texts ends, if it is not a known one and no other column's name ends like that."""
FILE_NAMES = ("file", "filename", "file_name", "path", "filepath", "file_path", "name", "document", "id", "item")
"""Columns that may name files beside the table."""
FIELDS = ("title", "author", "year", "date", "language", "licence", "source_type")
MOST_BYTES = 8 * 2**20
"""A larger table is not a description of files."""
MOST_NAMED = 5


def plain(name: str) -> str:
    """Return a column's name as it is compared."""
    return "_".join(name.casefold().replace("é", "e").replace("ñ", "n").replace("-", " ").replace(".", " ").split())


def find_column(field: str, columns: Iterable[str]) -> str:
    """Return the column that holds a field; empty if none is known by a name of it."""
    known = {plain(str(column)): str(column) for column in reversed(list(columns))}
    return next((known[name] for name in NAMES[field] if name in known), "")


def guess_columns(columns: Sequence[str], text: str = "") -> Columns:
    """Map the columns of a table; `text` is that of the text if it was named, and an only column holds texts."""
    fields = {field: find_column(field, columns) for field in NAMES if field not in ("text", "source_type")}
    alike = [name for name in columns if plain(name).endswith(TEXT_ENDS)] if len(columns) > 1 else columns
    only = alike[0] if len(alike) == 1 else ""
    given = next((name for name in columns if name == text or plain(name) == plain(text)), "") if text else ""
    return Columns(text=(text and (given or text)) or find_column("text", columns) or only or "text", **fields)


@dataclass
class Descriptions:
    """What tables say about files.

    Attributes:
        of_file: The fields of every file that is described.
        missing: By table, the place and the name of each file that it describes and that is not there.
    """

    of_file: dict[str, dict[str, Any]] = field(default_factory=dict)
    missing: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    def add(self, table: str, rows: Iterable[Row], files: Sequence[str]) -> bool:
        """Take a table, if one of its columns names some of the files and none holds texts; tell whether it is one."""
        kept: list[FileRow] = []
        for row in rows:
            if not isinstance(row, FileRow):
                continue
            if find_column("text", row.columns or row) and plain(find_column("text", row.columns or row)) != "document":
                return False
            kept.append(row)
        by_name = _by_name(table, files)
        columns = {name for row in kept for name in row if plain(str(name)) in FILE_NAMES}
        matches = {name: sum(_key(row.get(name)) in by_name for row in kept) for name in columns}
        best = max(sorted(matches), key=lambda name: matches[name], default="")
        if not best or not matches[best]:
            return False
        self.missing[table] = []
        for row in kept:
            fields = {name: value for name in FIELDS if (value := row.get(find_column(name, row))) not in (None, "")}
            if file := by_name.get(_key(row.get(best))):
                self.of_file[file] = self.of_file.get(file, {}) | fields
            else:
                self.missing[table].append((row.place, str(row.get(best, ""))))
        return True

    def account_of(self, table: str) -> str:
        """Say what a table describes, and which files it names that are not there."""
        missing = [f"{name!r} ({place})" for place, name in self.missing[table]]
        more = f" and {len(missing) - MOST_NAMED} more" if missing[MOST_NAMED:] else ""
        lost = f"; not there: {', '.join(missing[:MOST_NAMED])}{more}" if missing else ""
        return f"it describes {len(self.of_file)} of the files beside it{lost}"


def describe(row: FileRow, described: Mapping[str, Any]) -> None:
    """Lay what a table says about a file over what the file says about itself."""
    if row.is_document and described:
        row.update(described)
        if when := described.get("year") or described.get("date"):
            row["year"] = when


def _by_name(table: str, files: Sequence[str]) -> Mapping[str, str]:
    """Return the files by each way in which a table may name them: path, name, name without ending."""
    folder = PurePosixPath(table).parent
    found: dict[str, str] = {}
    for spell in (lambda path: path.stem, lambda path: path.name, lambda path: _below(path, folder), str):
        for file in files:
            found[_key(spell(PurePosixPath(file)))] = file
    return found


def _below(path: PurePosixPath, folder: PurePosixPath) -> str:
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def _key(name: Any) -> str:
    return str(name or "").strip().replace("\\", "/").removeprefix("./").casefold()
