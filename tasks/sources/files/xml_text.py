"""Text and metadata of XML such as TEI and ALTO. Runs in the child process of the parsers."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.entities import html5
from xml.parsers import expat

from tasks.sources.files.markup import tidy
from tasks.sources.files.record import FileText, Unreadable

_XML_BLOCKS = frozenset(
    (
        *("p", "ab", "l", "lg", "lb", "pb", "cb", "head", "div", "div1", "div2", "div3", "item", "note", "table"),
        *("row", "opener", "closer", "dateline", "salute", "signed", "byline", "sp", "speaker", "stage"),
        *("textline", "textblock", "textregion", "entry", "para", "title", "section", "abstract"),
    )
)


class _Tree:
    """Gathers the text of an XML file, and the header of a TEI one, element by element."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.path: list[str] = []
        self.fields: dict[str, list[str]] = {"title": [], "author": [], "date": [], "source_date": []}
        self.is_tei = self.is_alto = False
        self.language = ""
        self._header = 0
        self._field = ""

    def start(self, name: str, attributes: dict[str, str]) -> None:
        tag = name.rpartition(":")[2].lower()
        self.path.append(tag)
        if len(self.path) == 1:
            self.is_tei, self.is_alto = tag in ("tei", "tei.2", "teicorpus"), tag == "alto"
            self.language = attributes.get("xml:lang", "")
        if tag in ("teiheader", "metadata"):
            self._header += 1
        elif self._header and tag in ("title", "author", "date"):
            in_source = "sourcedesc" in self.path or "creation" in self.path
            self._field = "source_date" if tag == "date" and in_source else tag
            if self._field in ("title", "author") and "titlestmt" not in self.path:
                self._field = ""
            elif tag == "date" and (when := attributes.get("when") or attributes.get("value")):
                self.fields[self._field].append(when)
                self._field = ""
            elif self.fields.get(self._field):
                self.fields[self._field].append("; " if tag == "author" else " ")
        if not self._header:
            if self.is_alto and tag == "string":
                self.parts.append(attributes.get("CONTENT", "") + " ")
            elif tag in _XML_BLOCKS or not (self.is_tei or self.is_alto):
                self.parts.append("\n")

    def end(self, name: str) -> None:
        tag = self.path.pop()
        if tag in ("teiheader", "metadata"):
            self._header -= 1
        if self._field and tag in ("title", "author", "date"):
            self._field = ""
        if not self._header and tag in _XML_BLOCKS:
            self.parts.append("\n\n" if tag in ("p", "head", "div", "ab") else "\n")

    def data(self, text: str) -> None:
        if self._field:
            self.fields[self._field].append(text)
        elif not self._header:
            self.parts.append(text if self.path and self.path[-1] == "code" else re.sub(r"\s+", " ", text))

    def value(self, field: str) -> str:
        return " ".join("".join(self.fields[field]).split())


def parse_xml(
    data: bytes,
    start: Callable[[str, dict[str, str]], None],
    end: Callable[[str], None],
    text: Callable[[str], None],
) -> None:
    """Feed an XML file to handlers; no entity of its own is expanded and nothing outside is read."""
    parser = expat.ParserCreate()
    parser.buffer_text = True

    def entity(name: str, is_parameter: bool, value: str | None, *rest: object) -> None:
        raise Unreadable("xml-entities", f"it declares the entity {name!r}, which could expand without end")

    def skipped(name: str, is_parameter: bool) -> None:
        if not is_parameter:
            text(html5.get(f"{name};", ""))

    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, text
    parser.EntityDeclHandler, parser.SkippedEntityHandler = entity, skipped
    parser.UseForeignDTD(True)  # an entity whose list is not read, such as &eacute; is told, not an error
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise Unreadable("broken-file", f"it is not well-formed XML ({error})") from error


def read_xml(data: bytes) -> FileText:
    """Read an XML file: TEI with its header, ALTO, or the text of all elements."""
    tree = _Tree()
    parse_xml(data, tree.start, tree.end, tree.data)
    return FileText(
        tidy("".join(tree.parts)),
        title=tree.value("title"),
        author=tree.value("author"),
        date=tree.value("source_date") or ("" if tree.is_alto else tree.value("date")),
        language=tree.language,
    )
