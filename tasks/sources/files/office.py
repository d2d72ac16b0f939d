"""Text and metadata of EPUB, Word and OpenDocument files. Runs in the child process of the parsers."""

from __future__ import annotations

import posixpath
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from tasks.sources.files.markup import html_text, tidy
from tasks.sources.files.record import FileText, Unreadable
from tasks.sources.files.xml_text import parse_xml

LARGEST_EXPANSION, EXPANSION_FLOOR_BYTES = 200, 64 * 2**20
MOST_SPACES = 1000


class _Package:
    """The parts of a zipped document, which together may grow only so far."""

    def __init__(self, path: Path) -> None:
        self._zip = zipfile.ZipFile(path)
        self._left = self._limit = max(EXPANSION_FLOOR_BYTES, LARGEST_EXPANSION * path.stat().st_size)
        self.names = set(self._zip.namelist())

    def part(self, name: str) -> bytes:
        """Return one part; empty if it is not there."""
        if name not in self.names:
            return b""
        if self._zip.getinfo(name).flag_bits & 1:
            raise Unreadable("encrypted", "locked with a password; save it without one")
        with self._zip.open(name) as stream:
            data = stream.read(self._left + 1)
        self._left -= len(data)
        if self._left < 0:
            raise Unreadable("expands-too-far", f"expands to more than {self._limit:,} bytes")
        return data


class _Elements:
    """Calls a function for the start and end of each element, by its name without prefix, and gathers text."""

    def __init__(self) -> None:
        self.fields: dict[str, str] = {}
        self.parts: list[str] = []
        self.at: list[str] = []

    def feed(self, data: bytes, on_start: Callable[[str, dict[str, str]], None] | None = None) -> None:
        def start(name: str, attributes: dict[str, str]) -> None:
            self.at.append(name.rpartition(":")[2])
            if on_start:
                on_start(self.at[-1], {key.rpartition(":")[2]: value for key, value in attributes.items()})

        def end(name: str) -> None:
            self.at.pop()

        def text(value: str) -> None:
            if self.at and value.strip():
                old = self.fields.get(self.at[-1])
                self.fields[self.at[-1]] = (
                    f"{old}; {value.strip()}" if old and self.at[-1] == "creator" else (old or value.strip())
                )

        if data:
            parse_xml(data, start, end, text)


@dataclass(frozen=True)
class _Markup:
    """The elements of a format: what stands for a mark, what a paragraph, cell and row are, and which text is shown."""

    marks: Mapping[str, str]
    paragraphs: tuple[str, ...]
    cell: str
    row: str
    shows: Callable[[list[str]], bool]


_WORD = _Markup(
    {"w:tab": "\t", "w:ptab": "\t", "w:br": "\n", "w:cr": "\n", "w:noBreakHyphen": "-"},
    ("w:p",),
    "w:tc",
    "w:tr",
    lambda inside: inside[-1:] == ["w:t"] and "w:del" not in inside,
)
_OPEN = _Markup(
    {"text:tab": "\t", "text:line-break": "\n"},
    ("text:p", "text:h"),
    "table:table-cell",
    "table:table-row",
    lambda inside: "office:body" in inside and "text:tracked-changes" not in inside,
)


def _paragraphs(data: bytes, markup: _Markup) -> str:
    parts: list[str] = []
    inside: list[str] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        inside.append(name)
        if name == "text:s":
            count = attributes.get("text:c", "1")
            parts.append(" " * min(int(count) if count.isdigit() else 1, MOST_SPACES))
        parts.append(markup.marks.get(name, ""))

    def end(name: str) -> None:
        inside.pop()
        if name in markup.paragraphs:
            parts.append("\t" if markup.cell in inside else "\n\n")
        elif name == markup.row:
            parts.append("\n")

    def text(value: str) -> None:
        if markup.shows(inside):
            parts.append(value.replace("\n", " "))

    if data:
        parse_xml(data, start, end, text)
    return tidy("".join(parts))


def _described(text: str, package: _Package, part: str, author: str, made: str) -> FileText:
    """Add to a text what the part of its package that describes it says."""
    about = _Elements()
    about.feed(package.part(part))
    fields = about.fields
    return FileText(
        text,
        title=fields.get("title", ""),
        author=fields.get(author) or fields.get("creator", ""),
        language=fields.get("language", ""),
        made=fields.get(made) or fields.get("date", ""),
    )


def read_docx(path: Path) -> FileText:
    """Read a Word document: paragraphs, tables and notes; deleted text is left out."""
    package = _Package(path)
    if not (body := package.part("word/document.xml")):
        raise Unreadable("broken-file", "it has no word/document.xml")
    notes = [package.part(f"word/{name}.xml") for name in ("footnotes", "endnotes")]
    text = "\n\n".join(filter(None, (_paragraphs(data, _WORD) for data in (body, *notes))))
    return _described(text, package, "docProps/core.xml", "creator", "created")


def read_odt(path: Path) -> FileText:
    """Read an OpenDocument text: paragraphs, headings, lists and tables."""
    package = _Package(path)
    if b"encryption-data" in package.part("META-INF/manifest.xml"):
        raise Unreadable("encrypted", "locked with a password; save it without one")
    if not (body := package.part("content.xml")):
        raise Unreadable("broken-file", "it has no content.xml")
    return _described(_paragraphs(body, _OPEN), package, "meta.xml", "initial-creator", "creation-date")


def read_epub(path: Path) -> FileText:
    """Read an e-book: its chapters in reading order, title, author, date and language."""
    package = _Package(path)
    if b"EncryptedData" in (locked := package.part("META-INF/encryption.xml")) and b"html" in locked:
        raise Unreadable("encrypted", "its text is locked (DRM)")
    book, manifest, spine = _Elements(), {}, []
    container: list[str] = []
    _Elements().feed(
        package.part("META-INF/container.xml"),
        lambda name, given: container.append(given.get("full-path", "")) if name == "rootfile" else None,
    )
    if not container:
        raise Unreadable("broken-file", "it has no META-INF/container.xml that names its contents")

    def start(name: str, given: dict[str, str]) -> None:
        if name == "item":
            manifest[given.get("id", "")] = given.get("href", "")
        elif name == "itemref":
            spine.append(given.get("idref", ""))

    book.feed(package.part(container[0]), start)
    folder = posixpath.dirname(container[0])
    chapters = []
    for name in spine:
        href = unquote(manifest.get(name, "")).partition("#")[0]
        data = package.part(posixpath.normpath(posixpath.join(folder, href)))
        if data:
            chapters.append(html_text(data.decode("utf-8", "replace")).text)
    return FileText(
        "\n\n".join(filter(None, chapters)),
        title=book.fields.get("title", ""),
        author=book.fields.get("creator", ""),
        date=book.fields.get("date", ""),
        language=book.fields.get("language", ""),
    )
