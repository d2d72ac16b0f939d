"""Text and metadata of EPUB, Word and OpenDocument files. Runs in the child process of the parsers."""

from __future__ import annotations

import posixpath
import zipfile
from collections.abc import Callable
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


def read_docx(path: Path) -> FileText:
    """Read a Word document: paragraphs, tables and notes; deleted text is left out."""
    package = _Package(path)
    if not (body := package.part("word/document.xml")):
        raise Unreadable("broken-file", "it has no word/document.xml")
    notes = [package.part(f"word/{name}.xml") for name in ("footnotes", "endnotes")]
    text = "\n\n".join(filter(None, map(_word_text, [body, *notes])))
    core = _Elements()
    core.feed(package.part("docProps/core.xml"))
    return FileText(
        text,
        title=core.fields.get("title", ""),
        author=core.fields.get("creator", ""),
        language=core.fields.get("language", ""),
        made=core.fields.get("created", ""),
    )


def _word_text(data: bytes) -> str:
    parts: list[str] = []
    inside: list[str] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        inside.append(name)
        if name in ("w:tab", "w:ptab"):
            parts.append("\t")
        elif name in ("w:br", "w:cr"):
            parts.append("\n")
        elif name == "w:noBreakHyphen":
            parts.append("-")

    def end(name: str) -> None:
        inside.pop()
        if name == "w:p":
            parts.append("\t" if "w:tc" in inside else "\n\n")
        elif name == "w:tr":
            parts.append("\n")

    def text(value: str) -> None:
        if inside and inside[-1] == "w:t" and "w:del" not in inside:
            parts.append(value)

    if data:
        parse_xml(data, start, end, text)
    return tidy("".join(parts))


def read_odt(path: Path) -> FileText:
    """Read an OpenDocument text: paragraphs, headings, lists and tables."""
    package = _Package(path)
    if b"encryption-data" in package.part("META-INF/manifest.xml"):
        raise Unreadable("encrypted", "locked with a password; save it without one")
    if not (body := package.part("content.xml")):
        raise Unreadable("broken-file", "it has no content.xml")
    parts: list[str] = []
    inside: list[str] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        inside.append(name)
        if name == "text:s":
            count = attributes.get("text:c", "1")
            parts.append(" " * min(int(count) if count.isdigit() else 1, MOST_SPACES))
        elif name in ("text:tab", "text:line-break"):
            parts.append("\t" if name == "text:tab" else "\n")

    def end(name: str) -> None:
        inside.pop()
        if name in ("text:p", "text:h"):
            parts.append("\t" if "table:table-cell" in inside else "\n\n")
        elif name == "table:table-row":
            parts.append("\n")

    def text(value: str) -> None:
        if "office:body" in inside and "text:tracked-changes" not in inside:
            parts.append(value.replace("\n", " "))

    parse_xml(body, start, end, text)
    meta = _Elements()
    meta.feed(package.part("meta.xml"))
    made = meta.fields.get("creation-date", "") or meta.fields.get("date", "")
    author = meta.fields.get("initial-creator", "") or meta.fields.get("creator", "")
    return FileText(
        tidy("".join(parts)),
        title=meta.fields.get("title", ""),
        author=author,
        language=meta.fields.get("language", ""),
        made=made,
    )


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
