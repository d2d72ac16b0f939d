"""Which column of a table is what, where nobody said so: told by the columns' names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tasks.sources.catalogue import Columns

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
MOST_COLUMNS = 20


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
